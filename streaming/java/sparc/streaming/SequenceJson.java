package sparc.streaming;

import java.nio.charset.StandardCharsets;
import java.util.Arrays;

import org.apache.flink.shaded.jackson2.com.fasterxml.jackson.core.io.JsonStringEncoder;

/**
 * The value of a record of `sequences`: {@code streaming.events.UserSequence} in JSON. Written byte
 * by byte, as it is a hundred numbers for each click.
 */
final class SequenceJson {
    private static final int LONGEST_NUMBER = 20;
    private static final byte[] DIGITS = new byte[200];

    static {
        for (int i = 0; i < 100; i++) {
            DIGITS[2 * i] = (byte) ('0' + i / 10);
            DIGITS[2 * i + 1] = (byte) ('0' + i % 10);
        }
    }

    private static final byte[] EVENT_ID = ascii("{\"event_id\":\"");
    private static final byte[] USER_ID = ascii("\",\"user_id\":");
    private static final byte[] EVENT_TIME = ascii(",\"event_time\":");
    private static final byte[] POSITION = ascii(",\"position\":");
    private static final byte[] ITEMS = ascii(",\"history_items\":[");
    private static final byte[] TIMES = ascii("],\"history_times\":[");
    private static final byte[] TARGET = ascii("],\"target\":");
    private static final byte[] USER_TEXT = ascii(",\"external_user_id\":\"");
    private static final byte[] TARGET_TEXT = ascii(",\"external_target_id\":\"");

    private static final byte[] FORGET =
            ascii(",\"event_type\":\"" + Click.FORGET + "\",\"dropped\":");

    private byte[] buffer = new byte[4096];
    private int length;

    /**
     * @param userText the shop's text for the user in UTF-8; null where none is known
     * @param past the clicks before this one; its position is already that of this one
     */
    byte[] encode(long user, byte[] userText, History past, Waiting.Click click) {
        length = 0;
        text(EVENT_ID);
        text(quoted(click.event));
        text(USER_ID);
        number(user);
        text(EVENT_TIME);
        number(click.time);
        text(POSITION);
        number(past.position);
        text(ITEMS);
        numbers(past.items);
        text(TIMES);
        numbers(past.times);
        text(TARGET);
        number(click.item);
        optional(USER_TEXT, userText);
        optional(TARGET_TEXT, click.itemText);
        reserve(1);
        buffer[length++] = '}';
        return Arrays.copyOf(buffer, length);
    }

    /** {@code streaming.events.Forgotten}: the user is, and `dropped` clicks went before their time. */
    byte[] forgotten(byte[] event, long user, int dropped) {
        length = 0;
        text(EVENT_ID);
        text(quoted(event));
        text(USER_ID);
        number(user);
        text(FORGET);
        number(dropped);
        reserve(1);
        buffer[length++] = '}';
        return Arrays.copyOf(buffer, length);
    }

    private void optional(byte[] name, byte[] value) {
        if (value != null) {
            text(name);
            text(quoted(value));
            reserve(1);
            buffer[length++] = '"';
        }
    }

    private static byte[] quoted(byte[] text) {
        for (byte b : text) {
            if (b >= 0 && b < ' ' || b == '"' || b == '\\') {
                return JsonStringEncoder.getInstance()
                        .quoteAsUTF8(new String(text, StandardCharsets.UTF_8));
            }
        }
        return text;
    }

    private void text(byte[] bytes) {
        reserve(bytes.length);
        System.arraycopy(bytes, 0, buffer, length, bytes.length);
        length += bytes.length;
    }

    private void numbers(LongRing values) {
        for (int i = 0; i < values.size(); i++) {
            if (i > 0) {
                buffer[length++] = ','; // there is room: `number` leaves some
            }
            number(values.get(i));
        }
    }

    private void number(long value) {
        reserve(LONGEST_NUMBER + 1);
        if (value < 0) {
            text(ascii(Long.toString(value)));
            reserve(1);
            return;
        }
        int end = length + digits(value);
        int place = end;
        long rest = value;
        while (rest > Integer.MAX_VALUE) {
            long quotient = rest / 100;
            int pair = 2 * (int) (rest - 100 * quotient);
            buffer[--place] = DIGITS[pair + 1];
            buffer[--place] = DIGITS[pair];
            rest = quotient;
        }
        int small = (int) rest;
        while (small >= 100) {
            int quotient = small / 100;
            int pair = 2 * (small - 100 * quotient);
            buffer[--place] = DIGITS[pair + 1];
            buffer[--place] = DIGITS[pair];
            small = quotient;
        }
        if (small >= 10) {
            buffer[--place] = DIGITS[2 * small + 1];
            buffer[--place] = DIGITS[2 * small];
        } else {
            buffer[--place] = (byte) ('0' + small);
        }
        length = end;
    }

    private static int digits(long value) {
        long bound = 10;
        for (int digits = 1; digits < 19; digits++, bound *= 10) {
            if (value < bound) {
                return digits;
            }
        }
        return 19;
    }

    private void reserve(int bytes) {
        if (length + bytes > buffer.length) {
            buffer = Arrays.copyOf(buffer, Math.max(2 * buffer.length, length + bytes));
        }
    }

    private static byte[] ascii(String text) {
        return text.getBytes(StandardCharsets.US_ASCII);
    }
}
