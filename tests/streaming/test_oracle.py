from __future__ import annotations

from streaming.events import HEARTBEAT, Click
from tests.streaming.oracle import Record, expect


def record(user: int, item: int, time: int, event: str = "") -> Record:
    click = Click(event or f"{user}-{item}-{time}", user, item, time)
    return Record(click.key(), click.to_bytes(), timestamp=10**12)


def heartbeat(time: int) -> Record:
    return Record(None, Click("", 0, 0, time, HEARTBEAT).to_bytes(), timestamp=10**12)


def targets(out: dict, user: int) -> list[int]:
    return [s.target for s in out[user]]


def test_disorder_within_the_bound_is_put_right():
    out = expect([record(1, 10, 7000), record(1, 11, 3000), heartbeat(60_000)])
    assert targets(out.sequences, 1) == [11, 10]
    assert out.sequences[1][1].history_items == [11]
    assert not out.late


def test_equal_times_keep_the_order_of_arrival():
    out = expect([record(1, i, 5000) for i in (3, 1, 2)] + [heartbeat(60_000)])
    assert targets(out.sequences, 1) == [3, 1, 2]


def test_behind_the_watermark_is_late_and_moves_nothing():
    out = expect([record(1, 10, 50_000), record(1, 11, 45_000), heartbeat(60_000)])
    assert targets(out.sequences, 1) == [10]
    assert [Click.from_bytes(r.value or b"").item_id for r in out.late] == [11]


def test_a_second_click_with_the_same_id_is_a_duplicate_unless_forgotten():
    log = [record(1, i, 1000 + i, event="a" if i in (0, 3) else str(i)) for i in range(4)]
    assert expect([*log, heartbeat(60_000)]).duplicates == 1
    assert expect([*log, heartbeat(60_000)], remembered=2).duplicates == 0


def test_what_is_wrong_is_named():
    good = record(1, 2, 3)
    wrong = [
        Record(b"1", b"\xff", 0),
        Record(b"1", b'{"event_id": "a"}', 0),
        Record(b"2", good.value, 0),
        Record(b"1", record(1, 2, 10**15).value, 0),
    ]
    assert [field for _, field in expect(wrong).dead_letters] == [
        "value",
        "user_id",
        "key",
        "event_time",
    ]
