package sparc.streaming;

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;

import org.apache.flink.api.common.eventtime.Watermark;
import org.apache.flink.api.common.eventtime.WatermarkOutput;
import org.apache.flink.kafka.shaded.org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.flink.kafka.shaded.org.apache.kafka.common.header.internals.RecordHeaders;
import org.apache.flink.kafka.shaded.org.apache.kafka.common.record.TimestampType;
import org.apache.flink.util.Collector;

/**
 * For each line "timestamp key value" of one partition of `clicks`, with a header named by the third
 * argument, if there is one, what the source makes of it, and
 * the watermark behind it: "CLICK", "LATE" (marked as such), "HEARTBEAT" or "DEAD_LETTER", and ms.
 */
final class Arrivals {
    public static void main(String[] arguments) throws Exception {
        long maxAhead = Long.parseLong(arguments[0]);
        long delay = Long.parseLong(arguments[1]);
        RecordHeaders headers = new RecordHeaders();
        if (arguments.length > 2) {
            headers.add(arguments[2], new byte[] {'0'});
        }
        ReadClick source = new ReadClick(maxAhead, 1 << 20, delay);
        PartitionClock clock = new PartitionClock(delay);
        long[] watermark = {-1};
        BufferedReader lines =
                new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        long offset = 0;
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            String[] parts = line.split(" ", 3);
            long timestamp = Long.parseLong(parts[0]);
            List<Message> messages = new ArrayList<>();
            source.deserialize(
                    new ConsumerRecord<>(
                            "clicks",
                            0,
                            offset++,
                            timestamp,
                            TimestampType.CREATE_TIME,
                            0,
                            0,
                            parts[1].getBytes(StandardCharsets.UTF_8),
                            parts[2].getBytes(StandardCharsets.UTF_8),
                            headers,
                            Optional.empty()),
                    new Collector<Message>() {
                        @Override
                        public void collect(Message message) {
                            messages.add(message);
                        }

                        @Override
                        public void close() {}
                    });
            Message message = messages.get(0);
            clock.onEvent(message, timestamp, null);
            clock.onPeriodicEmit(
                    new WatermarkOutput() {
                        @Override
                        public void emitWatermark(Watermark now) {
                            watermark[0] = Math.max(watermark[0], now.getTimestamp());
                        }

                        @Override
                        public void markIdle() {}

                        @Override
                        public void markActive() {}
                    });
            System.out.println((message.late ? "LATE" : message.kind) + " " + watermark[0]);
        }
    }
}
