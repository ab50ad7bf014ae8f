package sparc.streaming;

import java.time.Duration;
import java.util.Map;
import java.util.Properties;

import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.connector.sink2.Sink;
import org.apache.flink.connector.base.DeliveryGuarantee;
import org.apache.flink.connector.kafka.sink.KafkaSink;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.util.TimeUtils;

/** The operators of the job, put together; {@code streaming/job/settings.py} has the settings. */
public final class SequencesJob {
    private SequencesJob() {}

    /**
     * Adds the job to an environment.
     *
     * <p>The ids of the operators with state are part of every savepoint.
     *
     * @param settings those of {@code streaming.job.settings.settings_for_java}
     * @param consumer settings of the Kafka client that reads
     * @param producer settings of the Kafka client that writes
     */
    public static void describe(
            StreamExecutionEnvironment environment,
            Map<String, String> settings,
            Map<String, String> consumer,
            Map<String, String> producer) {
        long delay = Long.parseLong(settings.get("out_of_orderness_ms"));
        KafkaSource<Message> clicks =
                KafkaSource.<Message>builder()
                        .setProperties(properties(consumer))
                        .setBootstrapServers(settings.get("bootstrap"))
                        .setGroupId(settings.get("name"))
                        .setTopics(settings.get("clicks"))
                        // Where there is no checkpoint to go on from.
                        .setStartingOffsets(OffsetsInitializer.earliest())
                        .setDeserializer(
                                new ReadClick(
                                        Long.parseLong(settings.get("max_ahead_ms")),
                                        Integer.parseInt(settings.get("max_value_bytes")),
                                        delay))
                        .build();
        WatermarkStrategy<Message> clocks =
                WatermarkStrategy.<Message>forGenerator(partition -> new PartitionClock(delay))
                        .withIdleness(
                                Duration.ofMillis(Long.parseLong(settings.get("idle_timeout_ms"))));
        String timeToLive = settings.get("user_ttl");
        environment
                .fromSource(clicks, clocks, "clicks", MessageType.INSTANCE)
                .uid("clicks")
                .filter(message -> message.kind != Message.Kind.HEARTBEAT)
                .name("no heartbeats")
                .keyBy(message -> message.user, Types.LONG)
                .process(
                        new UserSequences(
                                settings.get("clicks"),
                                Integer.parseInt(settings.get("remembered")),
                                timeToLive.isEmpty() ? null : TimeUtils.parseDuration(timeToLive)),
                        MessageType.INSTANCE)
                .name("user_sequences")
                .uid("user-sequences")
                .transform("in_order", MessageType.INSTANCE, new InOrder())
                .uid("in-order")
                .sinkTo(sink(settings, producer))
                .name("topics")
                .uid("topics");
    }

    private static Sink<Message> sink(Map<String, String> settings, Map<String, String> producer) {
        ToTopic toTopic =
                new ToTopic(
                        settings.get("sequences"),
                        settings.get("late"),
                        settings.get("dead_letters"));
        if (settings.get("delivery").equals("exactly-once")) {
            return new TransactionalSink(
                    settings.get("bootstrap"),
                    properties(producer),
                    settings.get("name") + "-",
                    toTopic);
        }
        return KafkaSink.<Message>builder()
                .setKafkaProducerConfig(properties(producer))
                .setBootstrapServers(settings.get("bootstrap"))
                .setRecordSerializer(toTopic)
                .setDeliveryGuarantee(DeliveryGuarantee.AT_LEAST_ONCE)
                .build();
    }

    private static Properties properties(Map<String, String> settings) {
        Properties properties = new Properties();
        properties.putAll(settings);
        return properties;
    }
}
