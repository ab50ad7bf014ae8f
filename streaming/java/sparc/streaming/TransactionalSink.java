package sparc.streaming;

import java.io.IOException;
import java.lang.reflect.Constructor;
import java.lang.reflect.Field;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.time.Duration;
import java.util.Collection;
import java.util.List;
import java.util.Properties;

import org.apache.flink.api.connector.sink2.Committer;
import org.apache.flink.api.connector.sink2.CommitterInitContext;
import org.apache.flink.api.connector.sink2.Sink;
import org.apache.flink.api.connector.sink2.StatefulSinkWriter;
import org.apache.flink.api.connector.sink2.SupportsCommitter;
import org.apache.flink.api.connector.sink2.SupportsWriterState;
import org.apache.flink.api.connector.sink2.WriterInitContext;
import org.apache.flink.connector.base.DeliveryGuarantee;
import org.apache.flink.connector.kafka.sink.KafkaCommittable;
import org.apache.flink.connector.kafka.sink.KafkaSink;
import org.apache.flink.connector.kafka.sink.KafkaWriterState;
import org.apache.flink.connector.kafka.sink.TransactionNamingStrategy;
import org.apache.flink.connector.kafka.sink.internal.TransactionAbortStrategyImpl;
import org.apache.flink.connector.kafka.sink.internal.TransactionNamingStrategyImpl;
import org.apache.flink.core.io.SimpleVersionedSerializer;
import org.apache.flink.kafka.shaded.org.apache.kafka.clients.admin.Admin;
import org.apache.flink.kafka.shaded.org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.flink.streaming.api.connector.sink2.CommittableMessage;
import org.apache.flink.streaming.api.connector.sink2.SupportsPostCommitTopology;
import org.apache.flink.streaming.api.datastream.DataStream;

/**
 * The connector's sink with transactions, whose writers leave nothing behind.
 *
 * <p>A writer of {@link KafkaSink} asks the broker, when it starts, for transactions that an earlier
 * run has left open, through an admin client that it never closes (connector 5.0.0). Each job, and
 * each restart of one, would leave a thread and a connection in the TaskManager, and the thread
 * holds the job's class loader: 13 MB of metaspace for each job, until there is none. Nothing but
 * the start needs that client, so it is closed there, also where the start fails.
 *
 * <p>The connector has no way to the client, nor to a writer whose start has failed, so both are
 * reached by their names in it. A subclass would have to be in the connector's package, which cannot
 * be where a cluster has the connector on its own class path.
 */
final class TransactionalSink
        implements Sink<Message>,
                SupportsWriterState<Message, KafkaWriterState>,
                SupportsCommitter<KafkaCommittable>,
                SupportsPostCommitTopology<KafkaCommittable> {
    private static final long serialVersionUID = 1;
    private static final String WRITER =
            "org.apache.flink.connector.kafka.sink.ExactlyOnceKafkaWriter";

    private final Properties producer;
    private final String prefix;
    private final ToTopic toTopic;
    private final KafkaSink<Message> sink;

    /**
     * @param bootstrap where Kafka is
     * @param producer settings of the Kafka client
     * @param prefix of the transactional ids
     * @param toTopic the record of each message
     */
    TransactionalSink(String bootstrap, Properties producer, String prefix, ToTopic toTopic) {
        this.producer = new Properties();
        this.producer.put("key.serializer", ByteArraySerializer.class.getName());
        this.producer.put("value.serializer", ByteArraySerializer.class.getName());
        this.producer.putAll(producer);
        this.producer.put("bootstrap.servers", bootstrap);
        this.prefix = prefix;
        this.toTopic = toTopic;
        sink =
                KafkaSink.<Message>builder()
                        .setKafkaProducerConfig(producer)
                        .setBootstrapServers(bootstrap)
                        .setRecordSerializer(toTopic)
                        .setDeliveryGuarantee(DeliveryGuarantee.EXACTLY_ONCE)
                        .setTransactionalIdPrefix(prefix)
                        // Takes over the transactions of a job that was killed, by asking the broker.
                        .setTransactionNamingStrategy(TransactionNamingStrategy.POOLING)
                        .build();
    }

    @Override
    public StatefulSinkWriter<Message, KafkaWriterState> createWriter(WriterInitContext context)
            throws IOException {
        return restoreWriter(context, List.of());
    }

    /** What {@link KafkaSink#restoreWriter} does, and the admin client closed. */
    @Override
    @SuppressWarnings("unchecked")
    public StatefulSinkWriter<Message, KafkaWriterState> restoreWriter(
            WriterInitContext context, Collection<KafkaWriterState> states) throws IOException {
        try {
            Class<?> type = Class.forName(WRITER, true, KafkaSink.class.getClassLoader());
            Constructor<?> create = type.getDeclaredConstructors()[0];
            create.setAccessible(true);
            Method initialize = type.getMethod("initialize");
            initialize.setAccessible(true);
            Field admin = type.getDeclaredField("adminClient");
            admin.setAccessible(true);
            Object writer =
                    create.newInstance(
                            DeliveryGuarantee.EXACTLY_ONCE,
                            producer,
                            prefix,
                            context,
                            toTopic,
                            context.asSerializationSchemaInitializationContext(),
                            TransactionAbortStrategyImpl.LISTING,
                            TransactionNamingStrategyImpl.POOLING,
                            states);
            try {
                initialize.invoke(writer);
            } finally {
                Admin client = (Admin) admin.get(writer);
                if (client != null) {
                    client.close(Duration.ZERO);
                }
            }
            return (StatefulSinkWriter<Message, KafkaWriterState>) writer;
        } catch (InvocationTargetException error) {
            Throwable cause = error.getCause();
            if (cause instanceof RuntimeException) {
                throw (RuntimeException) cause;
            }
            if (cause instanceof Error) { // Flink ends a TaskManager without memory
                throw (Error) cause;
            }
            throw new IOException(cause);
        } catch (ReflectiveOperationException error) {
            throw new IllegalStateException(
                    "the Kafka connector is another than the one that the job was made for", error);
        }
    }

    @Override
    public SimpleVersionedSerializer<KafkaWriterState> getWriterStateSerializer() {
        return sink.getWriterStateSerializer();
    }

    @Override
    public Committer<KafkaCommittable> createCommitter(CommitterInitContext context)
            throws IOException {
        return sink.createCommitter(context);
    }

    @Override
    public SimpleVersionedSerializer<KafkaCommittable> getCommittableSerializer() {
        return sink.getCommittableSerializer();
    }

    @Override
    public void addPostCommitTopology(DataStream<CommittableMessage<KafkaCommittable>> committed) {
        sink.addPostCommitTopology(committed);
    }
}
