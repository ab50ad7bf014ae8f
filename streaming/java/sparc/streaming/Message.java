package sparc.streaming;

import org.apache.flink.kafka.shaded.org.apache.kafka.common.header.Header;
import org.apache.flink.kafka.shaded.org.apache.kafka.common.header.internals.RecordHeader;

/**
 * What flows through the job: a record of `clicks` as it was read, with what was found in it, and
 * behind the user's state one record of an output topic.
 */
final class Message {
    enum Kind {
        /** A clock and nothing more. */
        HEARTBEAT,
        /** A click; its fields are set. */
        CLICK,
        /** A click that came too late; key, value and headers are those that it was read with. */
        LATE,
        /** A record that is no click; its headers say why. */
        DEAD_LETTER,
        /** A record of `sequences`. */
        SEQUENCE,
        /** A request to forget the user, and the record of `sequences` that says that it is done. */
        FORGET
    }

    static final Header[] NO_HEADERS = {};

    final Kind kind;
    final byte[] key;
    final byte[] value;
    final Header[] headers;
    /** Of a dead letter any number: it has no state. */
    long user;
    long item;
    /** Event time in ms, of clicks, sequences and heartbeats. */
    long time;
    /** Where it moves the clock of its partition; known where it is read, and to nobody behind. */
    long clock;
    /** The event id in UTF-8, of clicks and requests. */
    byte[] event;
    /** The shop's text for the user in UTF-8; null where a number is given. */
    byte[] userText;
    /** The shop's text for the item in UTF-8; null where a number is given. */
    byte[] itemText;
    /** Where the record of a click stood, and its timestamp, where there is a text of its user. */
    int partition;
    long offset;
    long timestamp;
    /** Whether the click came behind the watermark of its own partition. */
    boolean late;

    Message(Kind kind, byte[] key, byte[] value, Header[] headers) {
        this.kind = kind;
        this.key = key;
        this.value = value;
        this.headers = headers;
    }

    /** The same record on its way to another topic. */
    Message as(Kind other) {
        return new Message(other, key, value, headers);
    }

    static Header header(String name, byte[] value) {
        return new RecordHeader(name, value);
    }
}
