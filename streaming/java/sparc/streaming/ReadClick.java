package sparc.streaming;

import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Map;
import java.util.Set;

import org.apache.flink.table.annotation.DataTypeHint;
import org.apache.flink.table.annotation.FunctionHint;
import org.apache.flink.table.data.GenericMapData;
import org.apache.flink.table.data.GenericRowData;
import org.apache.flink.table.data.MapData;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.data.StringData;
import org.apache.flink.table.data.TimestampData;
import org.apache.flink.table.functions.TableFunction;

/**
 * One row for each record of `clicks`, none for a heartbeat. A valid click has its fields and no
 * `dead_letter`; any other record has nothing but `dead_letter`: the headers that it gets in
 * `clicks.dlq`, which are those that it came with, and where it stood, and why it is there.
 */
@FunctionHint(
        output =
                @DataTypeHint(
                        value =
                                "ROW<user_id BIGINT, event_id STRING, item_id BIGINT, "
                                        + "event_time BIGINT, dead_letter MAP<STRING, BYTES>>",
                        bridgedTo = RowData.class))
public final class ReadClick extends TableFunction<RowData> {
    private static final Set<String> OURS =
            Set.of("topic", "partition", "offset", "timestamp", "reason");
    private static final String ORIGINAL = "original.";

    public void eval(
            byte[] key,
            byte[] value,
            @DataTypeHint(value = "MAP<STRING, BYTES>", bridgedTo = MapData.class) MapData headers,
            String topic,
            Integer partition,
            Long offset,
            @DataTypeHint(value = "TIMESTAMP_LTZ(3)", bridgedTo = TimestampData.class)
                    TimestampData timestamp,
            Long maxAhead,
            Integer maxBytes) {
        long recordTime = timestamp.getMillisecond();
        Click click = Click.parse(value, key, recordTime, maxAhead, maxBytes);
        if (click.isHeartbeat()) {
            return;
        }
        GenericRowData row = new GenericRowData(5);
        if (click.reason == null) {
            row.setField(0, click.userId);
            row.setField(1, StringData.fromString(click.eventId));
            row.setField(2, click.itemId);
            row.setField(3, click.eventTime);
        } else {
            Map<StringData, byte[]> all = new HashMap<>();
            for (int i = 0; headers != null && i < headers.size(); i++) {
                String name = headers.keyArray().getString(i).toString();
                // Ours must not hide the producer's own.
                String kept = OURS.contains(name) ? ORIGINAL + name : name;
                boolean empty = headers.valueArray().isNullAt(i);
                all.put(
                        StringData.fromString(kept),
                        empty ? null : headers.valueArray().getBinary(i));
            }
            put(all, "topic", topic);
            put(all, "partition", partition.toString());
            put(all, "offset", offset.toString());
            put(all, "timestamp", Long.toString(recordTime));
            put(all, "reason", click.reason);
            row.setField(4, new GenericMapData(all));
        }
        collect(row);
    }

    private static void put(Map<StringData, byte[]> headers, String name, String value) {
        headers.put(StringData.fromString(name), value.getBytes(StandardCharsets.UTF_8));
    }
}
