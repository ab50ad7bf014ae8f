package sparc.streaming;

import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;

import org.apache.flink.streaming.api.operators.AbstractStreamOperator;
import org.apache.flink.streaming.api.operators.OneInputStreamOperator;
import org.apache.flink.streaming.api.watermark.Watermark;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;

/**
 * Sequences of the same event time in the order of their users.
 *
 * <p>Timers fire by their time, but those of equal time in the order of a heap, which a restart
 * changes: a log whose times are days would come out in another order after a failure, and the model
 * that learns from it would be another. Here the order is a property of the log.
 *
 * <p>There is no state: between two watermarks nothing waits, and a checkpoint's barrier never comes
 * in the middle of one. Of more than {@code MOST} sequences of one millisecond the order is that of
 * their arrival in parts.
 */
final class InOrder extends AbstractStreamOperator<Message>
        implements OneInputStreamOperator<Message, Message> {
    private static final long serialVersionUID = 1;
    private static final int MOST = 1 << 16;

    private transient List<Message> waiting;

    @Override
    public void open() throws Exception {
        super.open();
        waiting = new ArrayList<>();
    }

    @Override
    public void processElement(StreamRecord<Message> element) {
        Message message = element.getValue();
        if (message.kind != Message.Kind.SEQUENCE) {
            output.collect(element);
            return;
        }
        if (!waiting.isEmpty()
                && (waiting.get(0).time != message.time || waiting.size() == MOST)) {
            release();
        }
        waiting.add(message);
    }

    @Override
    public void processWatermark(Watermark mark) throws Exception {
        release();
        super.processWatermark(mark);
    }

    @Override
    public void prepareSnapshotPreBarrier(long checkpoint) throws Exception {
        release();
        super.prepareSnapshotPreBarrier(checkpoint);
    }

    @Override
    public void finish() throws Exception {
        release();
        super.finish();
    }

    private void release() {
        // Stable: the clicks of one user keep their order.
        waiting.sort(Comparator.comparingLong(message -> message.user));
        for (Message message : waiting) {
            output.collect(new StreamRecord<>(message));
        }
        waiting.clear();
    }
}
