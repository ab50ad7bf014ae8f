package sparc.streaming;

import java.nio.charset.StandardCharsets;
import java.util.Arrays;

import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.connector.kafka.source.reader.deserializer.KafkaRecordDeserializationSchema;
import org.apache.flink.kafka.shaded.org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.flink.util.Collector;

/**
 * One message for each record of `clicks`: a click, a heartbeat, or a dead letter with the headers
 * that it gets in `clicks.dlq`, which are those that it came with, and where it stood, and why it is
 * there.
 *
 * <p>A click so far behind the newest of its partition that it is late is marked here, where the
 * order of the partition is known: what is late is then a property of the log (while no restart
 * intervenes), and does not depend on when a watermark is sent.
 *
 * <p>A click is no clock beyond the moment of its arrival: one whose event time is ahead of its
 * record's timestamp, or of the time here, moves the watermark to the earlier of these and no
 * further, so that a producer whose clock is fast makes nobody else late. A heartbeat is a clock and
 * nothing else, and moves it to where it says.
 */
final class ReadClick implements KafkaRecordDeserializationSchema<Message> {
    private static final long serialVersionUID = 1;
    /** A header of the replay's records: their times were made milliseconds, however small. */
    private static final String REPLAYED = "log_position";

    private final long maxAhead;
    private final int maxBytes;
    private final long delay;
    /** The newest time of each partition, as it moves the clock; -1 before the first. */
    private long[] newest = {};

    /**
     * @param maxAhead how far an event time may be ahead of its record's arrival, in ms
     * @param maxBytes the largest value that is looked into
     * @param delay a click so far behind the newest of its partition is late, in ms
     */
    ReadClick(long maxAhead, int maxBytes, long delay) {
        this.maxAhead = maxAhead;
        this.maxBytes = maxBytes;
        this.delay = delay;
    }

    @Override
    public void deserialize(ConsumerRecord<byte[], byte[]> record, Collector<Message> out) {
        long now = System.currentTimeMillis();
        Click click =
                Click.parse(
                        record.value(),
                        record.key(),
                        record.timestamp(),
                        now,
                        record.headers().lastHeader(REPLAYED) != null,
                        maxAhead,
                        maxBytes);
        if (click.reason != null) {
            Message refused =
                    new Message(
                            Message.Kind.DEAD_LETTER,
                            record.key(),
                            record.value(),
                            record.headers().toArray());
            refused.partition = record.partition();
            refused.offset = record.offset();
            refused.timestamp = record.timestamp();
            out.collect(DeadLetter.of(refused, record.topic(), click.reason));
            return;
        }
        if (click.isForget()) {
            out.collect(forget(record, click));
            return;
        }
        boolean heartbeat = click.isHeartbeat();
        Message message =
                new Message(
                        heartbeat ? Message.Kind.HEARTBEAT : Message.Kind.CLICK,
                        record.key(),
                        record.value(),
                        record.headers().toArray());
        message.user = click.user.number;
        message.item = click.item.number;
        message.userText = click.user.text;
        message.itemText = click.item.text;
        message.partition = record.partition();
        message.offset = record.offset();
        message.timestamp = record.timestamp();
        message.time = click.eventTime;
        message.clock =
                heartbeat
                        ? click.eventTime
                        : Math.min(click.eventTime, Math.min(record.timestamp(), now));
        message.event = click.eventId.getBytes(StandardCharsets.UTF_8);
        int partition = record.partition();
        if (partition >= newest.length) {
            int known = newest.length;
            newest = Arrays.copyOf(newest, partition + 1);
            Arrays.fill(newest, known, newest.length, -1);
        }
        message.late = newest[partition] >= 0 && message.time <= newest[partition] - delay;
        newest[partition] = Math.max(newest[partition], message.clock);
        out.collect(message);
    }

    /** In the order of the user's clicks, whatever its time: it is no clock, and is never late. */
    private static Message forget(ConsumerRecord<byte[], byte[]> record, Click click) {
        Message request =
                new Message(
                        Message.Kind.FORGET, record.key(), record.value(), Message.NO_HEADERS);
        request.user = click.user.number;
        request.clock = -1;
        request.event = click.eventId.getBytes(StandardCharsets.UTF_8);
        return request;
    }

    @Override
    public TypeInformation<Message> getProducedType() {
        return MessageType.INSTANCE;
    }
}
