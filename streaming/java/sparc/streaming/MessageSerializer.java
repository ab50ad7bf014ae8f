package sparc.streaming;

import java.io.IOException;
import java.nio.charset.StandardCharsets;

import org.apache.flink.api.common.typeutils.SimpleTypeSerializerSnapshot;
import org.apache.flink.api.common.typeutils.TypeSerializerSnapshot;
import org.apache.flink.core.memory.DataInputView;
import org.apache.flink.core.memory.DataOutputView;
import org.apache.flink.kafka.shaded.org.apache.kafka.common.header.Header;

/** Of a message on its way from one operator to another; no state is written with it. */
public final class MessageSerializer extends PlainSerializer<Message> {
    static final MessageSerializer INSTANCE = new MessageSerializer();
    private static final long serialVersionUID = 1;
    private static final Message.Kind[] KINDS = Message.Kind.values();

    @Override
    public Message copy(Message from) {
        return from; // no operator changes one that it has handed on
    }

    @Override
    public void serialize(Message message, DataOutputView out) throws IOException {
        out.writeByte(message.kind.ordinal());
        writeBytes(message.key, out);
        writeBytes(message.value, out);
        out.writeInt(message.headers.length);
        for (Header header : message.headers) {
            writeBytes(header.key().getBytes(StandardCharsets.UTF_8), out);
            writeBytes(header.value(), out);
        }
        out.writeLong(message.user);
        if (message.kind == Message.Kind.CLICK) {
            out.writeLong(message.item);
            out.writeLong(message.time);
            writeBytes(message.event, out);
            writeBytes(message.itemText, out);
            writeBytes(message.userText, out);
            if (message.userText != null) {
                out.writeInt(message.partition);
                out.writeLong(message.offset);
                out.writeLong(message.timestamp);
            }
            out.writeBoolean(message.late);
        } else if (message.kind == Message.Kind.SEQUENCE) {
            out.writeLong(message.time);
        } else if (message.kind == Message.Kind.FORGET) {
            writeBytes(message.event, out);
        }
    }

    @Override
    public Message deserialize(DataInputView in) throws IOException {
        Message.Kind kind = KINDS[in.readByte()];
        byte[] key = readBytes(in);
        byte[] value = readBytes(in);
        int count = in.readInt();
        Header[] headers = count == 0 ? Message.NO_HEADERS : new Header[count];
        for (int i = 0; i < count; i++) {
            String name = new String(readBytes(in), StandardCharsets.UTF_8);
            headers[i] = Message.header(name, readBytes(in));
        }
        Message message = new Message(kind, key, value, headers);
        message.user = in.readLong();
        if (kind == Message.Kind.CLICK) {
            message.item = in.readLong();
            message.time = in.readLong();
            message.event = readBytes(in);
            message.itemText = readBytes(in);
            message.userText = readBytes(in);
            if (message.userText != null) {
                message.partition = in.readInt();
                message.offset = in.readLong();
                message.timestamp = in.readLong();
            }
            message.late = in.readBoolean();
        } else if (kind == Message.Kind.SEQUENCE) {
            message.time = in.readLong();
        } else if (kind == Message.Kind.FORGET) {
            message.event = readBytes(in);
        }
        return message;
    }

    @Override
    public TypeSerializerSnapshot<Message> snapshotConfiguration() {
        return new Snapshot();
    }

    /** Found by its name. */
    public static final class Snapshot extends SimpleTypeSerializerSnapshot<Message> {
        public Snapshot() {
            super(() -> INSTANCE);
        }
    }
}
