package sparc.streaming;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;

import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonFactory;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonParser;
import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.JsonToken;

/**
 * A record of the topic `clicks`, or the reason why it is none.
 *
 * <p>The rules are those of {@code streaming.events.Click.from_bytes}: one JSON object in UTF-8,
 * integers are JSON integers of 64 bits, strings are strings of at most a kilobyte, unknown fields
 * are ignored, and of a repeated field the last one counts; ids are integers, or, from schema version
 * 2 on, strings ({@link Id}); an item id is not negative, and a time is one in milliseconds
 * ({@code streaming.bounds}). Beyond that the value is no larger than allowed, the key is the user id,
 * and the event time no further ahead of the record's own timestamp, nor of the clock here, than
 * allowed. The reason names the first field that is wrong, in the order
 * of the schema.
 */
final class Click {
    static final String HEARTBEAT = "heartbeat";
    static final String FORGET = "forget_user";

    // Interned names would stay for ever, and a record may invent names.
    private static final JsonFactory JSON =
            JsonFactory.builder().disable(JsonFactory.Feature.INTERN_FIELD_NAMES).build();

    private static final String MISSING = "missing";
    private static final String NO_INTEGER = "not an integer";
    private static final String NO_STRING = "not a string";
    private static final String NO_ID = "neither an integer nor a string";
    private static final String NO_TEXT_YET = "a string, which needs schema_version 2";
    private static final String NO_SUCH_TEXT = "not of 1 to 256 bytes";
    private static final String NEGATIVE = "negative";
    private static final int LONGEST_NAME = 1024;
    /** Schema version from which on ids may be strings. */
    private static final long TEXT_IDS = 2;
    /** The last millisecond of the year 9999. */
    private static final long LATEST = 253_402_300_799_999L;
    /** 1990 and 2100, in seconds. */
    private static final long FIRST_SECOND = 631_152_000L;
    private static final long LAST_SECOND = 4_102_444_800L;

    private byte[] value;
    private byte[] key;
    private long timestamp;
    String eventId;
    Id user;
    Id item;
    long eventTime;
    String eventType;
    /** What is wrong with the record; null for a valid one. */
    String reason;

    boolean isHeartbeat() {
        return reason == null && HEARTBEAT.equals(eventType);
    }

    /** Whether it asks for its user to be forgotten. */
    boolean isForget() {
        return reason == null && FORGET.equals(eventType);
    }

    /**
     * Parses a record.
     *
     * @param value the record's value; null is a dead letter
     * @param key the record's key
     * @param timestamp the record's own timestamp in ms
     * @param now the time here, in ms
     * @param unitKnown whether the event time is one in ms even where it looks like seconds
     * @param maxAhead how far the event time may be ahead of both, in ms
     * @param maxBytes the largest value that is looked into
     */
    static Click parse(
            byte[] value,
            byte[] key,
            long timestamp,
            long now,
            boolean unitKnown,
            long maxAhead,
            int maxBytes) {
        Click click = new Click();
        click.value = value;
        click.key = key;
        click.timestamp = timestamp;
        click.reason = click.read(unitKnown, maxBytes);
        if (click.reason == null) {
            click.reason = click.check(now, maxAhead);
        }
        return click;
    }

    private String read(boolean unitKnown, int maxBytes) {
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
        IdField userId = new IdField(Long.MIN_VALUE);
        IdField itemId = new IdField(0);
        String time = MISSING;
        String type = MISSING;
        String version = MISSING;
        boolean mayBeText = false;
        try (JsonParser json = JSON.createParser(text)) {
            refuseHalfCharacters(text);
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
                        userId.read(json, token);
                        break;
                    case "item_id":
                        itemId.read(json, token);
                        break;
                    case "event_time":
                        time = integerProblem(json, token);
                        eventTime = time == null ? json.getLongValue() : 0;
                        time = time == null ? timeProblem(eventTime, unitKnown) : time;
                        break;
                    case "event_type":
                        type = stringProblem(json, token);
                        eventType = type == null ? json.getText() : null;
                        break;
                    case "schema_version":
                        version = integerProblem(json, token);
                        mayBeText = version == null && json.getLongValue() >= TEXT_IDS;
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
        user = userId.id;
        String userProblem = userId.problem(mayBeText);
        if (userProblem != null) {
            return "user_id: " + userProblem;
        }
        item = itemId.id;
        String itemProblem = itemId.problem(mayBeText);
        if (itemProblem != null) {
            return "item_id: " + itemProblem;
        }
        if (time != null) {
            return "event_time: " + time;
        }
        if (type != null) {
            return "event_type: " + type;
        }
        return version != null ? "schema_version: " + version : null;
    }

    /** An escape may spell half a character, which no UTF-8 can hold, in whatever field it is. */
    private static void refuseHalfCharacters(String text) throws IOException {
        if (!text.contains("\\ud") && !text.contains("\\uD")) {
            return;
        }
        try (JsonParser json = JSON.createParser(text)) {
            for (JsonToken token = json.nextToken(); token != null; token = json.nextToken()) {
                if ((token == JsonToken.FIELD_NAME || token == JsonToken.VALUE_STRING)
                        && !StandardCharsets.UTF_8.newEncoder().canEncode(json.getText())) {
                    throw new CharacterCodingException();
                }
            }
        }
    }

    private static String notAnObject(JsonParser json) throws IOException {
        json.skipChildren();
        return json.nextToken() == null ? "value: not a JSON object" : "value: not JSON";
    }

    private static String stringProblem(JsonParser json, JsonToken token) throws IOException {
        if (token != JsonToken.VALUE_STRING) {
            return NO_STRING;
        }
        String text = json.getText();
        if (text.length() > LONGEST_NAME / 4
                && text.getBytes(StandardCharsets.UTF_8).length > LONGEST_NAME) {
            return "longer than " + LONGEST_NAME + " bytes";
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

    private static String timeProblem(long time, boolean unitKnown) {
        if (time < 0) {
            return NEGATIVE;
        }
        if (!unitKnown && FIRST_SECOND <= time && time < LAST_SECOND) {
            return "looks like seconds, milliseconds expected";
        }
        if (FIRST_SECOND <= time / 1_000_000L && time / 1_000_000L < LAST_SECOND) {
            return "looks like microseconds, milliseconds expected";
        }
        if (FIRST_SECOND <= time / 1_000_000_000L && time / 1_000_000_000L < LAST_SECOND) {
            return "looks like nanoseconds, milliseconds expected";
        }
        return time > LATEST ? "beyond the year 9999" : null;
    }

    private String check(long now, long maxAhead) {
        if (eventTime - maxAhead > timestamp) {
            return "event_time: too far ahead of the record's timestamp";
        }
        if (eventTime - maxAhead > now) {
            return "event_time: too far ahead of the clock";
        }
        if (HEARTBEAT.equals(eventType)) {
            return null;
        }
        if (key == null) {
            return "key: missing";
        }
        return user.isKey(key) ? null : "key: not the user_id";
    }

    /** A field that holds an id, and what is wrong with it. */
    private static final class IdField {
        private final long least;
        private boolean isText;
        private String problem = MISSING;
        Id id;

        IdField(long least) {
            this.least = least;
        }

        void read(JsonParser json, JsonToken token) throws IOException {
            id = null;
            isText = token == JsonToken.VALUE_STRING;
            if (isText) {
                id = Id.of(json.getText());
                problem = id == null ? NO_SUCH_TEXT : null;
            } else if (token == JsonToken.VALUE_NUMBER_INT) {
                problem = integerProblem(json, token);
                id = problem == null ? Id.of(json.getLongValue()) : null;
            } else {
                problem = NO_ID;
            }
            if (id != null && id.number < least) {
                problem = NEGATIVE;
            }
        }

        String problem(boolean mayBeText) {
            return isText && !mayBeText ? NO_TEXT_YET : problem;
        }
    }
}
