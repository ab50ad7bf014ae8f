package sparc.streaming;

import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.Arrays;

/** A user or an item as the shop calls it: {@code streaming.ids}, by the same rules. */
final class Id {
    private static final int LONGEST = 256;
    private static final int LONGEST_NUMBER = 20;

    final long number;
    /** In UTF-8; null for a number, or what is written as one. */
    final byte[] text;

    private Id(long number, byte[] text) {
        this.number = number;
        this.text = text;
    }

    static Id of(long number) {
        return new Id(number, null);
    }

    /** The id that a string is; null for one that is empty or too long, without its white space. */
    static Id of(String given) {
        int end = given.length();
        int start = 0;
        while (start < end && isSpace(given.charAt(start))) {
            start++;
        }
        while (start < end && isSpace(given.charAt(end - 1))) {
            end--;
        }
        String name = given.substring(start, end);
        if (isNumber(name)) {
            try {
                return of(Long.parseLong(name));
            } catch (NumberFormatException e) {
                // Of more than 64 bits: a text like any other.
            }
        }
        byte[] text = name.getBytes(StandardCharsets.UTF_8);
        return text.length == 0 || text.length > LONGEST ? null : new Id(hash(text), text);
    }

    /** Whether a record's key is this id: as it was given, or its number in decimal. */
    boolean isKey(byte[] key) {
        return text != null && Arrays.equals(text, key)
                || Arrays.equals(Long.toString(number).getBytes(StandardCharsets.US_ASCII), key);
    }

    /** Python's white space, all of it in the lower plane. */
    private static boolean isSpace(char c) {
        return Character.isWhitespace(c) || Character.isSpaceChar(c) || c == '\u0085';
    }

    /** As one writes it: no plus, space or leading zero. */
    private static boolean isNumber(String name) {
        int length = name.length();
        if (length == 0 || length > LONGEST_NUMBER) {
            return false;
        }
        int first = name.charAt(0) == '-' ? 1 : 0;
        if (first == length || name.charAt(first) == '0' && length > 1) {
            return false;
        }
        for (int i = first; i < length; i++) {
            if (name.charAt(i) < '0' || name.charAt(i) > '9') {
                return false;
            }
        }
        return true;
    }

    private static long hash(byte[] text) {
        byte[] digest;
        try {
            digest = MessageDigest.getInstance("SHA-1").digest(text);
        } catch (NoSuchAlgorithmException e) {
            throw new IllegalStateException(e); // every Java has it
        }
        long number = 0;
        for (int i = 0; i < Long.BYTES; i++) {
            number = number << 8 | digest[i] & 0xff;
        }
        return number >>> 1;
    }
}
