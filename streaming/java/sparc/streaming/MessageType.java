package sparc.streaming;

import org.apache.flink.api.common.serialization.SerializerConfig;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeutils.TypeSerializer;

/** Tells Flink how messages are serialized. */
final class MessageType extends TypeInformation<Message> {
    static final MessageType INSTANCE = new MessageType();
    private static final long serialVersionUID = 1;

    @Override
    public TypeSerializer<Message> createSerializer(SerializerConfig config) {
        return MessageSerializer.INSTANCE;
    }

    @Override
    public Class<Message> getTypeClass() {
        return Message.class;
    }

    @Override
    public boolean isBasicType() {
        return false;
    }

    @Override
    public boolean isTupleType() {
        return false;
    }

    @Override
    public int getArity() {
        return 1;
    }

    @Override
    public int getTotalFields() {
        return 1;
    }

    @Override
    public boolean isKeyType() {
        return false;
    }

    @Override
    public String toString() {
        return "Message";
    }

    @Override
    public boolean canEqual(Object other) {
        return other instanceof MessageType;
    }

    @Override
    public boolean equals(Object other) {
        return canEqual(other);
    }

    @Override
    public int hashCode() {
        return 1;
    }
}
