package sparc.streaming;

import java.util.Arrays;
import java.util.List;
import java.util.Optional;

import org.apache.flink.connector.kafka.lineage.DefaultKafkaDatasetFacet;
import org.apache.flink.connector.kafka.lineage.DefaultKafkaDatasetIdentifier;
import org.apache.flink.connector.kafka.lineage.KafkaDatasetFacet;
import org.apache.flink.connector.kafka.lineage.KafkaDatasetFacetProvider;
import org.apache.flink.connector.kafka.sink.KafkaRecordSerializationSchema;
import org.apache.flink.kafka.shaded.org.apache.kafka.clients.producer.ProducerRecord;

/** The topic of each message; the record's own time is that of its writing. */
final class ToTopic
        implements KafkaRecordSerializationSchema<Message>, KafkaDatasetFacetProvider {
    private static final long serialVersionUID = 1;

    private final String sequences;
    private final String late;
    private final String deadLetters;

    ToTopic(String sequences, String late, String deadLetters) {
        this.sequences = sequences;
        this.late = late;
        this.deadLetters = deadLetters;
    }

    @Override
    public ProducerRecord<byte[], byte[]> serialize(
            Message message, KafkaSinkContext context, Long timestamp) {
        String topic;
        switch (message.kind) {
            case SEQUENCE:
            case FORGET:
                topic = sequences;
                break;
            case LATE:
                topic = late;
                break;
            case DEAD_LETTER:
                topic = deadLetters;
                break;
            default:
                throw new IllegalStateException("no topic for a " + message.kind);
        }
        return new ProducerRecord<>(
                topic, null, null, message.key, message.value, Arrays.asList(message.headers));
    }

    /** The sink looks for transactions of an earlier run that wrote to these topics. */
    @Override
    public Optional<KafkaDatasetFacet> getKafkaDatasetFacet() {
        return Optional.of(
                new DefaultKafkaDatasetFacet(
                        DefaultKafkaDatasetIdentifier.ofTopics(
                                List.of(sequences, late, deadLetters))));
    }
}
