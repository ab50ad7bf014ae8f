package sparc.streaming;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;

import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonFactory;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonParser;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonToken;

/**
 * A record of the topic `clicks`, or the reason why it is none.
 *
 * <p>The rules are those of {@code streaming.events.Click.from_bytes}: one JSON object in UTF-8,
 * integers are JSON integers of 64 bits, strings are strings, unknown fields are ignored, and of a
 * repeated field the last one counts. Beyond that the value is no larger than allowed, the key is
 * the decimal user id, and the event time neither negative nor further ahead of the record's own
 * timestamp than allowed. The reason names the first field that is wrong, in the order of the
 * schema.
 */
final class Click {
    static final String HEARTBEAT = "heartbeat";

    // Interned names would stay for ever, and a record may invent names.
    private static final JsonFactory JSON =
            JsonFactory.builder().disable(JsonFactory.Feature.INTERN_FIELD_NAMES).build();

    private static final String MISSING = "missing";
    private static final String NO_INTEGER = "not an integer";
    private static final String NO_STRING = "not a string";

    private byte[] value;
    private byte[] key;
    private long timestamp;
    String eventId;
    long userId;
    long itemId;
    long eventTime;
    String eventType;
    /** What is wrong with the record; null for a valid one. */
    String reason;

    boolean isHeartbeat() {
        return reason == null && HEARTBEAT.equals(eventType);
    }

    /**
     * Parses a record.
     *
     * @param value the record's value; null is a dead letter
     * @param key the record's key
     * @param timestamp the record's own timestamp in ms
     * @param maxAhead how far the event time may be ahead of it, in ms
     * @param maxBytes the largest value that is looked into
     */
    static Click parse(
            byte[] value, byte[] key, long timestamp, long maxAhead, int maxBytes) {
        Click click = new Click();
        click.value = value;
        click.key = key;
        click.timestamp = timestamp;
        click.reason = click.read(maxBytes);
        if (click.reason == null) {
            click.reason = click.check(maxAhead);
        }
        return click;
    }

    private String read(int maxBytes) {
        if (value == null) {
            return "value: missing";
        }
        if (value.length > maxBytes) {
            return "value: larger than " + maxBytes + " bytes";
        }
        String text;
        try {
            // Strictly: `new String` would replace what is malformed.
            text = StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(value)).toString();
        } catch (CharacterCodingException e) {
            return "value: not UTF-8";
        }
        String id = MISSING;
        String user = MISSING;
        String item = MISSING;
        String time = MISSING;
        String type = MISSING;
        String version = MISSING;
        try (JsonParser json = JSON.createParser(text)) {
            if (json.nextToken() != JsonToken.START_OBJECT) {
                return json.currentToken() == null ? "value: not JSON" : notAnObject(json);
            }
            while (json.nextToken() == JsonToken.FIELD_NAME) {
                String field = json.currentName();
                JsonToken token = json.nextToken();
                switch (field) {
                    case "event_id":
                        id = stringProblem(json, token);
                        eventId = id == null ? json.getText() : null;
                        break;
                    case "user_id":
                        user = integerProblem(json, token);
                        userId = user == null ? json.getLongValue() : 0;
                        break;
                    case "item_id":
                        item = integerProblem(json, token);
                        itemId = item == null ? json.getLongValue() : 0;
                        break;
                    case "event_time":
                        time = integerProblem(json, token);
                        eventTime = time == null ? json.getLongValue() : 0;
                        break;
                    case "event_type":
                        type = stringProblem(json, token);
                        eventType = type == null ? json.getText() : null;
                        break;
                    case "schema_version":
                        version = integerProblem(json, token);
                        break;
                    default:
                        json.skipChildren();
                        continue;
                }
                json.skipChildren();
            }
            if (json.nextToken() != null) {
                return "value: not JSON";
            }
        } catch (IOException e) {
            return "value: not JSON";
        }
        if (id != null) {
            return "event_id: " + id;
        }
        if (user != null) {
            return "user_id: " + user;
        }
        if (item != null) {
            return "item_id: " + item;
        }
        if (time != null) {
            return "event_time: " + time;
        }
        if (type != null) {
            return "event_type: " + type;
        }
        return version != null ? "schema_version: " + version : null;
    }

    private static String notAnObject(JsonParser json) throws IOException {
        json.skipChildren();
        return json.nextToken() == null ? "value: not a JSON object" : "value: not JSON";
    }

    private static String stringProblem(JsonParser json, JsonToken token) throws IOException {
        if (token != JsonToken.VALUE_STRING) {
            return NO_STRING;
        }
        // An escape may spell half a character, which no UTF-8 can hold.
        String text = json.getText();
        boolean plain = text.chars().noneMatch(c -> Character.isSurrogate((char) c));
        if (!plain && !StandardCharsets.UTF_8.newEncoder().canEncode(text)) {
            throw new CharacterCodingException();
        }
        return null;
    }

    private static String integerProblem(JsonParser json, JsonToken token) throws IOException {
        if (token != JsonToken.VALUE_NUMBER_INT) {
            return NO_INTEGER;
        }
        return json.getNumberType() == JsonParser.NumberType.BIG_INTEGER
                ? "outside 64 bits"
                : null;
    }

    private String check(long maxAhead) {
        if (eventTime < 0) {
            return "event_time: negative";
        }
        if (eventTime - maxAhead > timestamp) {
            return "event_time: too far ahead of the record's timestamp";
        }
        if (HEARTBEAT.equals(eventType)) {
            return null;
        }
        if (key == null) {
            return "key: missing";
        }
        byte[] expected = Long.toString(userId).getBytes(StandardCharsets.US_ASCII);
        return Arrays.equals(expected, key) ? null : "key: not the user_id";
    }
}
