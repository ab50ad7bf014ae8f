package sparc.streaming;

import java.io.IOException;

import org.apache.flink.api.common.typeutils.SimpleTypeSerializerSnapshot;
import org.apache.flink.api.common.typeutils.TypeSerializerSnapshot;
import org.apache.flink.core.memory.DataInputView;
import org.apache.flink.core.memory.DataOutputView;

/** A user's clicks that have gone out: how many, and the last of them. */
public final class History {
    private static final int LENGTH = 50;

    long position;
    final LongRing items;
    final LongRing times;

    History() {
        this(0, new LongRing(), new LongRing());
    }

    private History(long position, LongRing items, LongRing times) {
        this.position = position;
        this.items = items;
        this.times = times;
    }

    /** Whether the last click is of this time or a later one. */
    boolean reaches(long time) {
        return times.size() > 0 && time <= times.get(times.size() - 1);
    }

    void add(long item, long time) {
        items.add(item, LENGTH);
        times.add(time, LENGTH);
    }

    /** Of the state of a user. */
    public static final class Serializer extends PlainSerializer<History> {
        static final Serializer INSTANCE = new Serializer();
        private static final long serialVersionUID = 1;

        @Override
        public History copy(History from) {
            return new History(from.position, from.items.copy(), from.times.copy());
        }

        @Override
        public void serialize(History history, DataOutputView out) throws IOException {
            out.writeLong(history.position);
            history.items.write(out);
            history.times.write(out);
        }

        @Override
        public History deserialize(DataInputView in) throws IOException {
            return new History(in.readLong(), LongRing.read(in), LongRing.read(in));
        }

        @Override
        public TypeSerializerSnapshot<History> snapshotConfiguration() {
            return new Snapshot();
        }
    }

    /** Found by its name in a savepoint. */
    public static final class Snapshot extends SimpleTypeSerializerSnapshot<History> {
        public Snapshot() {
            super(() -> Serializer.INSTANCE);
        }
    }
}
