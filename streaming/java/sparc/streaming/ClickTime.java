package sparc.streaming;

import org.apache.flink.table.annotation.DataTypeHint;
import org.apache.flink.table.data.TimestampData;
import org.apache.flink.table.functions.ScalarFunction;

/**
 * The event time of a record of `clicks`, from which its partition's watermark follows; the epoch
 * for a record that is a dead letter, so that none can move the watermark.
 */
public final class ClickTime extends ScalarFunction {
    private static final TimestampData EPOCH = TimestampData.fromEpochMillis(0);

    public @DataTypeHint(value = "TIMESTAMP_LTZ(3) NOT NULL", bridgedTo = TimestampData.class)
            TimestampData eval(
            byte[] value,
            byte[] key,
            @DataTypeHint(value = "TIMESTAMP_LTZ(3)", bridgedTo = TimestampData.class)
                    TimestampData timestamp,
            Long maxAhead,
            Integer maxBytes) {
        Click click = Click.parse(value, key, timestamp.getMillisecond(), maxAhead, maxBytes);
        return click.reason == null ? TimestampData.fromEpochMillis(click.eventTime) : EPOCH;
    }
}
