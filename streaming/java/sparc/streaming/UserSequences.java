package sparc.streaming;

import java.nio.charset.StandardCharsets;
import java.util.Arrays;

import org.apache.flink.metrics.Counter;
import org.apache.flink.table.annotation.ArgumentHint;
import org.apache.flink.table.annotation.ArgumentTrait;
import org.apache.flink.table.annotation.DataTypeHint;
import org.apache.flink.table.annotation.FunctionHint;
import org.apache.flink.table.annotation.StateHint;
import org.apache.flink.table.api.dataview.MapView;
import org.apache.flink.table.data.GenericRowData;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.data.StringData;
import org.apache.flink.table.functions.FunctionContext;
import org.apache.flink.table.functions.ProcessTableFunction;

/**
 * The clicks of one user, once each and in the order of event time, each with the clicks before it.
 *
 * <p>A click waits until the watermark has passed its event time, so that those before it have
 * arrived; clicks of equal event time keep the order of their arrival. A click that comes behind
 * the watermark, or behind a later click of its user that has gone out already, comes back as
 * `late`. The second condition matters after a restart: watermarks are no part of a checkpoint, and
 * Flink's own operators drop such a row without a trace.
 */
@FunctionHint(
        output =
                @DataTypeHint(
                        value =
                                "ROW<kind STRING, output_key BYTES, output_value BYTES, "
                                        + "output_headers MAP<STRING, BYTES>>",
                        bridgedTo = RowData.class))
public final class UserSequences extends ProcessTableFunction<RowData> {
    private static final int HISTORY_LENGTH = 50;

    private static final StringData SEQUENCE = StringData.fromString("sequence");
    private static final StringData LATE = StringData.fromString("late");
    private static final StringData DEAD_LETTER = StringData.fromString("dead letter");

    private transient Counter duplicates;
    private transient Counter late;

    /** What has gone out of a user: how many clicks, and the last of them, oldest first. */
    public static final class History {
        public long user;
        public long position;
        public long[] items = {};
        public long[] times = {};

        boolean reaches(long time) {
            return times.length > 0 && time <= times[times.length - 1];
        }
    }

    /** The clicks of one event time that wait for the watermark, in the order of arrival. */
    public static final class Waiting {
        public String[] events = {};
        public long[] items = {};
    }

    @Override
    public void open(FunctionContext context) {
        duplicates = context.getMetricGroup().counter("duplicates");
        late = context.getMetricGroup().counter("late");
    }

    public void eval(
            Context context,
            @StateHint(ttl = "0") History history,
            @StateHint(ttl = "0") MapView<Long, Waiting> waiting,
            @StateHint MapView<String, Boolean> seen,
            @ArgumentHint(
                            value = {ArgumentTrait.SET_SEMANTIC_TABLE},
                            type =
                                    @DataTypeHint(
                                            value =
                                                    "ROW<user_id BIGINT, event_id STRING, "
                                                            + "item_id BIGINT, event_time BIGINT, "
                                                            + "dead_letter MAP<STRING, BYTES>, "
                                                            + "`key` BYTES, `value` BYTES>",
                                            bridgedTo = RowData.class))
                    RowData click)
            throws Exception {
        if (click.isNullAt(0)) {
            collect(GenericRowData.of(DEAD_LETTER, binary(click, 5), binary(click, 6), click.getMap(4)));
            return;
        }
        String event = click.getString(1).toString();
        if (seen.contains(event)) {
            duplicates.inc();
            return;
        }
        seen.put(event, true);
        long time = click.getLong(3);
        TimeContext<Long> clock = context.timeContext(Long.class);
        Long watermark = clock.currentWatermark();
        if ((watermark != null && time <= watermark) || history.reaches(time)) {
            late.inc();
            collect(GenericRowData.of(LATE, click.getBinary(5), click.getBinary(6), null));
            return;
        }
        history.user = click.getLong(0);
        Waiting same = waiting.get(time);
        if (same == null) {
            same = new Waiting();
            clock.registerOnTime(time);
        }
        int size = same.items.length;
        same.events = Arrays.copyOf(same.events, size + 1);
        same.items = Arrays.copyOf(same.items, size + 1);
        same.events[size] = event;
        same.items[size] = click.getLong(2);
        waiting.put(time, same);
    }

    public void onTimer(
            OnTimerContext context,
            History history,
            MapView<Long, Waiting> waiting,
            MapView<String, Boolean> seen)
            throws Exception {
        long time = context.timeContext(Long.class).time();
        Waiting ready = waiting.get(time);
        waiting.remove(time);
        byte[] key = Long.toString(history.user).getBytes(StandardCharsets.US_ASCII);
        for (int i = 0; i < ready.items.length; i++) {
            history.position++;
            byte[] sequence =
                    SequenceJson.encode(
                            ready.events[i],
                            history.user,
                            time,
                            history.position,
                            history.items,
                            history.times,
                            ready.items[i]);
            collect(GenericRowData.of(SEQUENCE, key, sequence, null));
            history.items = append(history.items, ready.items[i]);
            history.times = append(history.times, time);
        }
    }

    private static byte[] binary(RowData row, int field) {
        return row.isNullAt(field) ? null : row.getBinary(field);
    }

    private static long[] append(long[] values, long value) {
        int kept = Math.min(values.length, HISTORY_LENGTH - 1);
        long[] result = new long[kept + 1];
        System.arraycopy(values, values.length - kept, result, 0, kept);
        result[kept] = value;
        return result;
    }
}
