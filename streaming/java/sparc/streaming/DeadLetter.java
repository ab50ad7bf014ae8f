package sparc.streaming;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;

import org.apache.flink.kafka.shaded.org.apache.kafka.common.header.Header;

/** A refused record as it goes to `clicks.dlq`: with where it stood, and why it is there. */
final class DeadLetter {
    private static final Set<String> OURS =
            Set.of("topic", "partition", "offset", "timestamp", "reason");
    private static final String ORIGINAL = "original.";

    private DeadLetter() {}

    /**
     * @param record as read, with its headers, partition, offset and timestamp
     * @param topic that it was read from
     * @param reason what is wrong with it: the field, and why
     */
    static Message of(Message record, String topic, String reason) {
        List<Header> headers = new ArrayList<>();
        for (Header header : record.headers) {
            // Ours must not hide the producer's own.
            String name = header.key();
            headers.add(
                    OURS.contains(name)
                            ? Message.header(ORIGINAL + name, header.value())
                            : header);
        }
        headers.add(text("topic", topic));
        headers.add(text("partition", Integer.toString(record.partition)));
        headers.add(text("offset", Long.toString(record.offset)));
        headers.add(text("timestamp", Long.toString(record.timestamp)));
        headers.add(text("reason", reason));
        Message letter =
                new Message(
                        Message.Kind.DEAD_LETTER,
                        record.key,
                        record.value,
                        headers.toArray(Message.NO_HEADERS));
        letter.user = record.partition; // so that those of a partition keep their order
        return letter;
    }

    private static Header text(String name, String value) {
        return Message.header(name, value.getBytes(StandardCharsets.UTF_8));
    }
}
