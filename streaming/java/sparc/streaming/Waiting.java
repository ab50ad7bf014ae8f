package sparc.streaming;

import java.io.IOException;
import java.util.ArrayList;
import java.util.List;

import org.apache.flink.api.common.typeutils.SimpleTypeSerializerSnapshot;
import org.apache.flink.api.common.typeutils.TypeSerializerSnapshot;
import org.apache.flink.core.memory.DataInputView;
import org.apache.flink.core.memory.DataOutputView;

/** The clicks of a user that wait for the watermark: by event time, equal ones as they arrived. */
public final class Waiting {
    /** One of them. */
    static final class Click {
        final long time;
        final long item;
        /** The shop's text for the item in UTF-8; null where a number was given. */
        final byte[] itemText;
        /** The event id in UTF-8. */
        final byte[] event;

        Click(long time, long item, byte[] itemText, byte[] event) {
            this.time = time;
            this.item = item;
            this.itemText = itemText;
            this.event = event;
        }
    }

    final List<Click> clicks;

    Waiting() {
        this(new ArrayList<>(2));
    }

    private Waiting(List<Click> clicks) {
        this.clicks = clicks;
    }

    void add(Click click) {
        int place = clicks.size();
        while (place > 0 && clicks.get(place - 1).time > click.time) {
            place--;
        }
        clicks.add(place, click);
    }

    /**
     * Of the state of a user. A count that is not negative begins what a savepoint from before there
     * were texts holds, and what is the same as that: clicks of numbers alone.
     */
    public static final class Serializer extends PlainSerializer<Waiting> {
        static final Serializer INSTANCE = new Serializer();
        private static final long serialVersionUID = 1;

        @Override
        public Waiting copy(Waiting from) {
            return new Waiting(new ArrayList<>(from.clicks));
        }

        @Override
        public void serialize(Waiting waiting, DataOutputView out) throws IOException {
            int count = waiting.clicks.size();
            boolean texts = waiting.clicks.stream().anyMatch(click -> click.itemText != null);
            out.writeInt(texts ? -count : count);
            for (Click click : waiting.clicks) {
                out.writeLong(click.time);
                out.writeLong(click.item);
                if (texts) {
                    writeBytes(click.itemText, out);
                }
                writeBytes(click.event, out);
            }
        }

        @Override
        public Waiting deserialize(DataInputView in) throws IOException {
            int read = in.readInt();
            boolean texts = read < 0;
            int count = Math.abs(read);
            List<Click> clicks = new ArrayList<>(count + 1);
            for (int i = 0; i < count; i++) {
                long time = in.readLong();
                long item = in.readLong();
                byte[] itemText = texts ? readBytes(in) : null;
                clicks.add(new Click(time, item, itemText, readBytes(in)));
            }
            return new Waiting(clicks);
        }

        @Override
        public TypeSerializerSnapshot<Waiting> snapshotConfiguration() {
            return new Snapshot();
        }
    }

    /** Found by its name in a savepoint. */
    public static final class Snapshot extends SimpleTypeSerializerSnapshot<Waiting> {
        public Snapshot() {
            super(() -> Serializer.INSTANCE);
        }
    }
}
