package sparc.streaming;

import java.nio.charset.StandardCharsets;
import java.util.Arrays;

import org.apache.flink.metrics.Counter;
import org.apache.flink.table.annotation.ArgumentHint;
import org.apache.flink.table.annotation.ArgumentTrait;
import org.apache.flink.table.annotation.DataTypeHint;
import org.apache.flink.table.annotation.FunctionHint;
import org.apache.flink.table.annotation.StateHint;
import org.apache.flink.table.api.dataview.MapView;
import org.apache.flink.table.data.GenericRowData;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.data.StringData;
import org.apache.flink.table.functions.FunctionContext;
import org.apache.flink.table.functions.ProcessTableFunction;

/**
 * The clicks of one user, once each and in the order of event time, each with the clicks before it.
 *
 * <p>A click waits until the watermark has passed its event time, so that those before it have
 * arrived; clicks of equal event time keep the order of their arrival. A click that comes behind
 * the watermark, or not after the last click of its user that has gone out, comes back as late. The
 * second condition matters after a restart: watermarks are no part of a checkpoint, and Flink's own
 * operators drop such a row without a trace.
 *
 * <p>Of the last `remembered` clicks of a user the event ids are known, by 64 bits of a hash, and a
 * click with one of them is a duplicate. The bound is a number and not a time, so that the outcome
 * does not depend on how fast a log is replayed; a duplicate from before it is late at the worst,
 * because its event time has gone by.
 */
@FunctionHint(
        output = @DataTypeHint(value = UserSequences.OUTPUT, bridgedTo = RowData.class))
public class UserSequences extends ProcessTableFunction<RowData> {
    private static final int HISTORY_LENGTH = 50;

    private static final StringData SEQUENCE = StringData.fromString("sequence");
    private static final StringData LATE = StringData.fromString("late");
    private static final StringData DEAD_LETTER = StringData.fromString("dead letter");

    private transient Counter duplicates;
    private transient Counter late;

    static final String CLICK =
            "ROW<user_id BIGINT, event_id STRING, item_id BIGINT, event_time BIGINT, "
                    + "dead_letter MAP<STRING, BYTES>, `key` BYTES, `value` BYTES>";

    static final String OUTPUT =
            "ROW<kind STRING, output_key BYTES, output_value BYTES, "
                    + "output_headers MAP<STRING, BYTES>>";

    /** A user's clicks so far: how many have gone out, and the last of them, oldest first. */
    public static final class History {
        public long user;
        public long position;
        public long[] items = {};
        public long[] times = {};
        /** Hashes of the event ids that were seen last, oldest first. */
        public long[] seen = {};

        boolean reaches(long time) {
            return times.length > 0 && time <= times[times.length - 1];
        }

        boolean hasSeen(long event) {
            for (long other : seen) {
                if (other == event) {
                    return true;
                }
            }
            return false;
        }
    }

    /** The clicks of one event time that wait for the watermark, in the order of arrival. */
    public static final class Waiting {
        public String[] events = {};
        public long[] items = {};
    }

    @Override
    public void open(FunctionContext context) {
        duplicates = context.getMetricGroup().counter("duplicates");
        late = context.getMetricGroup().counter("late");
    }

    public void eval(
            Context context,
            @StateHint(ttl = "0") History history,
            @StateHint(ttl = "0") MapView<Long, Waiting> waiting,
            @ArgumentHint(
                            value = {ArgumentTrait.SET_SEMANTIC_TABLE},
                            type = @DataTypeHint(value = CLICK, bridgedTo = RowData.class))
                    RowData click,
            Integer remembered)
            throws Exception {
        if (click.isNullAt(0)) {
            byte[] key = click.isNullAt(5) ? null : click.getBinary(5);
            byte[] value = click.isNullAt(6) ? null : click.getBinary(6);
            collect(GenericRowData.of(DEAD_LETTER, key, value, click.getMap(4)));
            return;
        }
        String event = click.getString(1).toString();
        long hash = hash(event);
        if (history.hasSeen(hash)) {
            duplicates.inc();
            return;
        }
        history.user = click.getLong(0);
        history.seen = append(history.seen, hash, remembered);
        long time = click.getLong(3);
        TimeContext<Long> clock = context.timeContext(Long.class);
        Long watermark = clock.currentWatermark();
        if ((watermark != null && time <= watermark) || history.reaches(time)) {
            late.inc();
            collect(GenericRowData.of(LATE, click.getBinary(5), click.getBinary(6), null));
            return;
        }
        Waiting same = waiting.get(time);
        if (same == null) {
            same = new Waiting();
            clock.registerOnTime(time);
        }
        int size = same.items.length;
        same.events = Arrays.copyOf(same.events, size + 1);
        same.items = Arrays.copyOf(same.items, size + 1);
        same.events[size] = event;
        same.items[size] = click.getLong(2);
        waiting.put(time, same);
    }

    public void onTimer(OnTimerContext context, History history, MapView<Long, Waiting> waiting)
            throws Exception {
        long time = context.timeContext(Long.class).time();
        Waiting ready = waiting.get(time);
        waiting.remove(time);
        byte[] key = Long.toString(history.user).getBytes(StandardCharsets.US_ASCII);
        for (int i = 0; i < ready.items.length; i++) {
            history.position++;
            byte[] sequence =
                    SequenceJson.encode(
                            ready.events[i],
                            history.user,
                            time,
                            history.position,
                            history.items,
                            history.times,
                            ready.items[i]);
            collect(GenericRowData.of(SEQUENCE, key, sequence, null));
            history.items = append(history.items, ready.items[i], HISTORY_LENGTH);
            history.times = append(history.times, time, HISTORY_LENGTH);
        }
    }

    /** The last `limit` of the values and one more. */
    private static long[] append(long[] values, long value, int limit) {
        int kept = Math.min(values.length, limit - 1);
        long[] result = new long[kept + 1];
        System.arraycopy(values, values.length - kept, result, 0, kept);
        result[kept] = value;
        return result;
    }

    /** FNV-1a over the characters, mixed as in MurmurHash3. */
    static long hash(String text) {
        long hash = 0xcbf29ce484222325L;
        for (int i = 0; i < text.length(); i++) {
            hash = (hash ^ text.charAt(i)) * 0x100000001b3L;
        }
        hash = (hash ^ (hash >>> 33)) * 0xff51afd7ed558ccdL;
        hash = (hash ^ (hash >>> 33)) * 0xc4ceb9fe1a85ec53L;
        return hash ^ (hash >>> 33);
    }
}
