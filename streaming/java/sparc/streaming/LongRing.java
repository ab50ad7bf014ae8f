package sparc.streaming;

import java.io.IOException;
import java.nio.ByteBuffer;

import org.apache.flink.api.common.typeutils.SimpleTypeSerializerSnapshot;
import org.apache.flink.api.common.typeutils.TypeSerializerSnapshot;
import org.apache.flink.core.memory.DataInputView;
import org.apache.flink.core.memory.DataOutputView;

/** The last so many of a row of numbers, oldest first. */
public final class LongRing {
    private static final int FIRST_CAPACITY = 8;

    private long[] values;
    private int start;
    private int size;

    LongRing() {
        this(new long[0]);
    }

    private LongRing(long[] values) {
        this.values = values;
        this.size = values.length;
    }

    int size() {
        return size;
    }

    /** The one at `index` from the oldest. */
    long get(int index) {
        int place = start + index;
        return values[place < values.length ? place : place - values.length];
    }

    /** Takes one in, and lets the oldest go until there are at most `limit`. */
    void add(long value, int limit) {
        while (size >= limit) {
            start = start + 1 == values.length ? 0 : start + 1;
            size--;
        }
        if (size == values.length) {
            int capacity = Math.min(limit, Math.max(FIRST_CAPACITY, 2 * size));
            values = toArray(capacity);
            start = 0;
        }
        int place = start + size;
        values[place < values.length ? place : place - values.length] = value;
        size++;
    }

    boolean contains(long value) {
        int end = start + size;
        int upper = Math.min(end, values.length);
        for (int i = start; i < upper; i++) {
            if (values[i] == value) {
                return true;
            }
        }
        for (int i = end - values.length - 1; i >= 0; i--) {
            if (values[i] == value) {
                return true;
            }
        }
        return false;
    }

    LongRing copy() {
        return new LongRing(toArray(size));
    }

    private long[] toArray(int length) {
        long[] array = new long[length];
        int first = Math.min(size, values.length - start);
        System.arraycopy(values, start, array, 0, first);
        System.arraycopy(values, 0, array, first, size - first);
        return array;
    }

    void write(DataOutputView out) throws IOException {
        byte[] bytes = new byte[Integer.BYTES + Long.BYTES * size];
        ByteBuffer buffer = ByteBuffer.wrap(bytes).putInt(size);
        for (int i = 0; i < size; i++) {
            buffer.putLong(get(i));
        }
        out.write(bytes);
    }

    static LongRing read(DataInputView in) throws IOException {
        long[] values = new long[in.readInt()];
        byte[] bytes = new byte[Long.BYTES * values.length];
        in.readFully(bytes);
        ByteBuffer.wrap(bytes).asLongBuffer().get(values);
        return new LongRing(values);
    }

    /** Of a ring in the state of a user. */
    public static final class Serializer extends PlainSerializer<LongRing> {
        static final Serializer INSTANCE = new Serializer();
        private static final long serialVersionUID = 1;

        @Override
        public LongRing copy(LongRing from) {
            return from.copy();
        }

        @Override
        public void serialize(LongRing ring, DataOutputView out) throws IOException {
            ring.write(out);
        }

        @Override
        public LongRing deserialize(DataInputView in) throws IOException {
            return read(in);
        }

        @Override
        public TypeSerializerSnapshot<LongRing> snapshotConfiguration() {
            return new Snapshot();
        }
    }

    /** Found by its name in a savepoint. */
    public static final class Snapshot extends SimpleTypeSerializerSnapshot<LongRing> {
        public Snapshot() {
            super(() -> Serializer.INSTANCE);
        }
    }
}
