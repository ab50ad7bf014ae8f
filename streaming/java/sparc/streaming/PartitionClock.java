package sparc.streaming;

import org.apache.flink.api.common.eventtime.Watermark;
import org.apache.flink.api.common.eventtime.WatermarkGenerator;
import org.apache.flink.api.common.eventtime.WatermarkOutput;

/**
 * The watermark of one partition: `delay` ms behind the newest click or heartbeat. It is sent every
 * few milliseconds rather than with each record, as a watermark goes to every task behind.
 */
final class PartitionClock implements WatermarkGenerator<Message> {
    private final long delay;
    private long newest = -1;

    PartitionClock(long delay) {
        this.delay = delay;
    }

    @Override
    public void onEvent(Message message, long timestamp, WatermarkOutput output) {
        if (message.kind != Message.Kind.DEAD_LETTER) {
            newest = Math.max(newest, message.clock);
        }
    }

    @Override
    public void onPeriodicEmit(WatermarkOutput output) {
        if (newest >= 0) {
            output.emitWatermark(new Watermark(newest - delay));
        }
    }
}
