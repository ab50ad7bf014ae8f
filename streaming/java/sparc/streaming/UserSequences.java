package sparc.streaming;

import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Arrays;
import java.util.Iterator;

import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.StateTtlConfig;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeutils.base.array.BytePrimitiveArraySerializer;
import org.apache.flink.metrics.Counter;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.util.Collector;

/**
 * The clicks of one user, once each and in the order of event time, each with the clicks before it.
 *
 * <p>A click waits until the watermark has passed its event time, so that those before it have
 * arrived; clicks of equal event time keep the order of their arrival. A click that comes behind
 * the watermark, or not after the last click of its user that has gone out, is late. The second
 * condition matters after a restart: watermarks are no part of a checkpoint.
 *
 * <p>Of the last `remembered` clicks of a user the event ids are known, by 64 bits of a hash, and a
 * click with one of them is a duplicate. The bound is a number and not a time, so that the outcome
 * does not depend on how fast a log is replayed; a duplicate from before it is late at the worst,
 * because its event time has gone by.
 *
 * <p>A user who is to be forgotten is forgotten at once, with the clicks that wait; a request is
 * never late and no duplicate.
 *
 * <p>Two users whose ids have the same number cannot be told apart in what follows. The text of the
 * first one is remembered, and a click of another is a dead letter; a click with the number means
 * the user whose number it is.
 *
 * <p>The state is changed in place: the heap backend gives a copy of what a checkpoint still needs.
 */
final class UserSequences extends KeyedProcessFunction<Long, Message, Message> {
    private static final long serialVersionUID = 1;
    private static final String COLLISION = "user_id: has the number of another user's";

    private final String topic;
    private final int remembered;
    private final Duration timeToLive;

    private transient ValueState<History> history;
    private transient ValueState<LongRing> seen;
    private transient ValueState<byte[]> text;
    private transient ValueState<Waiting> waiting;
    private transient SequenceJson json;
    private transient Counter duplicates;
    private transient Counter late;

    /**
     * @param topic that the clicks come from
     * @param remembered how many event ids of a user are known
     * @param timeToLive a user without clicks for so long is forgotten; null for never
     */
    UserSequences(String topic, int remembered, Duration timeToLive) {
        this.topic = topic;
        this.remembered = remembered;
        this.timeToLive = timeToLive;
    }

    @Override
    public void open(OpenContext context) {
        ValueStateDescriptor<History> histories =
                new ValueStateDescriptor<>("history", History.Serializer.INSTANCE);
        ValueStateDescriptor<LongRing> ids =
                new ValueStateDescriptor<>("seen", LongRing.Serializer.INSTANCE);
        ValueStateDescriptor<byte[]> texts =
                new ValueStateDescriptor<>("text", BytePrimitiveArraySerializer.INSTANCE);
        if (timeToLive != null) {
            StateTtlConfig config = StateTtlConfig.newBuilder(timeToLive).build();
            histories.enableTimeToLive(config);
            ids.enableTimeToLive(config);
            texts.enableTimeToLive(config);
        }
        history = getRuntimeContext().getState(histories);
        seen = getRuntimeContext().getState(ids);
        text = getRuntimeContext().getState(texts);
        // What waits has not gone out yet, and is never forgotten.
        waiting =
                getRuntimeContext()
                        .getState(
                                new ValueStateDescriptor<>(
                                        "waiting", Waiting.Serializer.INSTANCE));
        json = new SequenceJson();
        duplicates = getRuntimeContext().getMetricGroup().counter("duplicates");
        late = getRuntimeContext().getMetricGroup().counter("late");
    }

    @Override
    public void processElement(Message click, Context context, Collector<Message> out)
            throws Exception {
        if (click.kind == Message.Kind.DEAD_LETTER) {
            out.collect(click);
            return;
        }
        if (click.kind == Message.Kind.FORGET) {
            forget(click, context, out);
            return;
        }
        if (click.userText != null && !isTheSameUser(click.userText)) {
            out.collect(DeadLetter.of(click, topic, COLLISION));
            return;
        }
        LongRing ids = seen.value();
        if (ids == null) {
            ids = new LongRing();
        }
        long hash = hash(click.event);
        if (ids.contains(hash)) {
            duplicates.inc();
            return;
        }
        ids.add(hash, remembered);
        seen.update(ids);
        if (click.late
                || click.time <= context.timerService().currentWatermark()
                || hasGoneOut(click.time)) {
            late.inc();
            out.collect(click.as(Message.Kind.LATE));
            return;
        }
        Waiting clicks = waiting.value();
        if (clicks == null) {
            clicks = new Waiting();
        }
        clicks.add(new Waiting.Click(click.time, click.item, click.itemText, click.event));
        waiting.update(clicks);
        context.timerService().registerEventTimeTimer(click.time);
    }

    /**
     * Nothing of the user is left here, and those behind are told in the order of the clicks: what
     * went out before lies before it, what is clicked next has position 1.
     */
    private void forget(Message request, Context context, Collector<Message> out)
            throws Exception {
        Waiting clicks = waiting.value();
        int dropped = 0;
        if (clicks != null) {
            dropped = clicks.clicks.size();
            for (Waiting.Click click : clicks.clicks) {
                context.timerService().deleteEventTimeTimer(click.time);
            }
        }
        history.clear();
        seen.clear();
        text.clear();
        waiting.clear();
        byte[] value = json.forgotten(request.event, request.user, dropped);
        byte[] key = key(request.user); // a request may have the text: of another partition
        Message done = new Message(Message.Kind.FORGET, key, value, Message.NO_HEADERS);
        done.user = request.user;
        done.event = request.event;
        out.collect(done);
    }

    /** Whether it is the text that the number is known by, as it is from now on. */
    private boolean isTheSameUser(byte[] given) throws Exception {
        byte[] known = text.value();
        if (known == null || timeToLive != null) {
            text.update(known == null ? given : known); // which also keeps it from being forgotten
        }
        return known == null || Arrays.equals(known, given);
    }

    private boolean hasGoneOut(long time) throws Exception {
        History past = history.value();
        return past != null && past.reaches(time);
    }

    @Override
    public void onTimer(long now, OnTimerContext context, Collector<Message> out)
            throws Exception {
        History past = history.value();
        if (past == null) {
            past = new History();
        }
        Waiting clicks = waiting.value();
        long user = context.getCurrentKey();
        byte[] userText = text.value();
        byte[] key = key(user);
        for (Iterator<Waiting.Click> i = clicks.clicks.iterator(); i.hasNext(); ) {
            Waiting.Click click = i.next();
            if (click.time > now) {
                break;
            }
            i.remove();
            past.position++;
            byte[] value = json.encode(user, userText, past, click);
            Message sequence =
                    new Message(Message.Kind.SEQUENCE, key, value, Message.NO_HEADERS);
            sequence.user = user;
            sequence.time = click.time;
            out.collect(sequence);
            past.add(click.item, click.time);
        }
        history.update(past);
        if (clicks.clicks.isEmpty()) {
            waiting.clear();
        } else {
            waiting.update(clicks);
        }
    }

    /** Of what is said of a user in `sequences`: its partition follows from it. */
    private static byte[] key(long user) {
        return Long.toString(user).getBytes(StandardCharsets.US_ASCII);
    }

    /** FNV-1a over the bytes, mixed as in MurmurHash3. */
    static long hash(byte[] bytes) {
        long hash = 0xcbf29ce484222325L;
        for (byte b : bytes) {
            hash = (hash ^ (b & 0xff)) * 0x100000001b3L;
        }
        hash = (hash ^ (hash >>> 33)) * 0xff51afd7ed558ccdL;
        hash = (hash ^ (hash >>> 33)) * 0xc4ceb9fe1a85ec53L;
        return hash ^ (hash >>> 33);
    }
}
