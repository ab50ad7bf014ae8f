package sparc.streaming;

import java.nio.charset.StandardCharsets;

import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.io.JsonStringEncoder;

/** The value of a record of `sequences`: {@code streaming.events.UserSequence} in JSON. */
final class SequenceJson {
    private SequenceJson() {}

    static byte[] encode(
            String eventId,
            long userId,
            long eventTime,
            long position,
            long[] historyItems,
            long[] historyTimes,
            long target) {
        StringBuilder json = new StringBuilder(160 + 24 * historyItems.length);
        json.append("{\"event_id\":\"");
        JsonStringEncoder.getInstance().quoteAsString(eventId, json);
        json.append("\",\"user_id\":").append(userId);
        json.append(",\"event_time\":").append(eventTime);
        json.append(",\"position\":").append(position);
        append(json.append(",\"history_items\":"), historyItems);
        append(json.append(",\"history_times\":"), historyTimes);
        json.append(",\"target\":").append(target).append('}');
        return json.toString().getBytes(StandardCharsets.UTF_8);
    }

    private static void append(StringBuilder json, long[] values) {
        json.append('[');
        for (int i = 0; i < values.length; i++) {
            if (i > 0) {
                json.append(',');
            }
            json.append(values[i]);
        }
        json.append(']');
    }
}
