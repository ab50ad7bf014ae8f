from __future__ import annotations

import pytest

from streaming.events import HEARTBEAT, Click
from tests.streaming.oracle import Oracle, Record, expect


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
        Record(b"1", b" " * (1 << 20) + (good.value or b""), 0),
    ]
    assert [field for _, field in expect(wrong).dead_letters.values()] == [
        "value",
        "user_id",
        "key",
        "event_time",
        "value",
    ]


def test_a_piece_of_several_partitions_is_let_go_by_the_slowest():
    oracle = Oracle()
    out = oracle.expect(
        [(0, record(1, 10, 7000)), (0, heartbeat(60_000)), (1, record(2, 11, 4000))]
    )
    assert not out.sequences
    out = oracle.expect([(0, heartbeat(60_000)), (1, heartbeat(50_000))])
    assert (targets(out.sequences, 1), targets(out.sequences, 2)) == ([10], [11])


def test_what_is_behind_the_piece_before_is_late_on_every_partition():
    oracle = Oracle()
    oracle.expect([(0, heartbeat(60_000)), (1, heartbeat(60_000))])
    out = oracle.expect([(0, record(1, 10, 55_000)), (1, record(2, 11, 55_001))])
    assert [r.key for r in out.late] == [b"1"]


def test_an_idle_partition_holds_nothing_back_and_may_come_late():
    oracle = Oracle()
    oracle.expect([(0, heartbeat(10_000)), (1, heartbeat(10_000))])
    out = oracle.expect([(0, record(1, 10, 20_000)), (0, heartbeat(60_000))])
    assert targets(out.sequences, 1) == [10]
    assert oracle.expect([(1, record(2, 11, 30_000))]).late


def test_a_click_that_may_be_late_or_not_is_refused():
    oracle = Oracle()
    oracle.expect([(0, heartbeat(10_000)), (1, heartbeat(10_000))])
    with pytest.raises(ValueError, match="may be late or not"):
        oracle.expect([(0, heartbeat(60_000)), (0, record(1, 10, 20_000))])
