from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.training.backlog import Backlog, assemble
from model.training.micro_batch import (
    ITEMS,
    SEQUENCES,
    MicroBatch,
    Plan,
    Polled,
    Record,
    TrainerError,
    checksum,
)
from streaming.events import UserSequence
from streaming.items import Item
from tests.model.training.in_memory import RecordedSource
from tests.model.training.recorded_log import make_log


def _source(
    log: list[list[UserSequence]], poison: set[tuple[int, int]], items: list[Item], poll: int
) -> RecordedSource:
    """A log in which the sequences at `poison` are broken bytes."""
    lists = [
        [b"{broken" if (p, n) in poison else s for n, s in enumerate(sequences)]
        for p, sequences in enumerate(log)
    ]
    return RecordedSource(lists, items, poll)


def _cut_all(source: RecordedSource, batch_size: int, items_per_plan: int) -> list[MicroBatch]:
    backlog = Backlog({}, batch_size, items_per_plan)
    batches = []
    while True:
        batch = backlog.cut(backlog.exhausted())
        if batch is not None:
            batches.append(batch)
        elif backlog.exhausted():
            return batches
        else:
            backlog.offer(source.poll(backlog.enough()))


logs = st.builds(
    make_log,
    events=st.integers(0, 80),
    users=st.integers(1, 9),
    items=st.integers(1, 30),
    partitions=st.integers(1, 4),
    seed=st.integers(0, 5),
)
poisons = st.sets(st.tuples(st.integers(0, 3), st.integers(0, 30)), max_size=8)


@settings(max_examples=60, deadline=None)
@given(logs, poisons, st.integers(1, 20), st.integers(1, 12))
def test_every_record_is_in_exactly_one_plan_and_ranges_leave_no_gap(
    log: tuple[list[list[UserSequence]], list[Item]],
    poison: set[tuple[int, int]],
    batch_size: int,
    items_per_plan: int,
) -> None:
    sequences, items = log
    batches = _cut_all(_source(sequences, poison, items, 16), batch_size, items_per_plan)
    good = [s for p, of in enumerate(sequences) for n, s in enumerate(of) if (p, n) not in poison]
    trained = [s for b in batches for s in b.sequences]
    assert sorted(s.event_id for s in trained) == sorted(s.event_id for s in good)
    assert [i for b in batches for i in b.items] == items
    assert sum(b.poison for b in batches) == sum(map(len, sequences)) - len(good)
    for stream, count in [(SEQUENCES, list(map(len, sequences))), (ITEMS, [len(items)])]:
        ends = [0] * len(count)
        for b in batches:
            for p, (start, end) in getattr(b.plan, stream).items():
                assert start == ends[p]
                ends[p] = end
        assert ends == count
    assert all(len(b.sequences) <= batch_size for b in batches)
    assert all(len(b.items) <= items_per_plan for b in batches)


@settings(max_examples=60, deadline=None)
@given(logs, poisons, st.integers(1, 20), st.integers(1, 40), st.integers(1, 40))
def test_plans_do_not_depend_on_how_records_arrive_in_polls(
    log: tuple[list[list[UserSequence]], list[Item]],
    poison: set[tuple[int, int]],
    batch_size: int,
    one: int,
    other: int,
) -> None:
    sequences, items = log
    a = _cut_all(_source(sequences, poison, items, one), batch_size, 10)
    b = _cut_all(_source(sequences, poison, items, other), batch_size, 10)
    assert [x.plan for x in a] == [x.plan for x in b]


@settings(max_examples=60, deadline=None)
@given(logs, poisons, st.integers(1, 20))
def test_a_plan_read_again_gives_the_same_micro_batch(
    log: tuple[list[list[UserSequence]], list[Item]], poison: set[tuple[int, int]], batch_size: int
) -> None:
    source = _source(log[0], poison, log[1], 16)
    for batch in _cut_all(source, batch_size, 10):
        plan = Plan.from_json(batch.plan.to_json())
        assert plan == batch.plan
        assert assemble(plan, *source.read(plan)) == batch


def test_partitions_are_merged_by_event_time() -> None:
    sequences, items = make_log(60, partitions=3)
    batches = _cut_all(RecordedSource(sequences, items), 7, 100)
    times = [s.event_time for b in batches for s in b.sequences]
    assert times == sorted(times)
    assert {len(b.sequences) for b in batches[:-1]} == {7}


def test_a_full_batch_waits_for_a_partition_that_was_not_read_yet() -> None:
    (one, other), _ = make_log(40, partitions=2)
    backlog = Backlog({}, 5, 100)
    backlog.offer(
        Polled(
            {0: [Record(n, s) for n, s in enumerate(one)]},
            {},
            {SEQUENCES: {0: len(one), 1: 0}},
            {SEQUENCES: {0: len(one), 1: len(other)}},
        )
    )
    assert backlog.cut(waited=False) is None
    backlog.offer(
        Polled(
            {1: [Record(n, s) for n, s in enumerate(other)]}, {}, {SEQUENCES: {1: len(other)}}, {}
        )
    )
    batch = backlog.cut(waited=False)
    assert batch is not None
    assert [s.event_time for s in batch.sequences] == [0, 1000, 2000, 3000, 4000]


def test_a_partial_batch_is_cut_only_after_waiting() -> None:
    (sequences,), _ = make_log(3, partitions=1)
    backlog = Backlog({SEQUENCES: {0: 10}}, 5, 100)
    records = {0: [Record(10 + n, s) for n, s in enumerate(sequences)]}
    # The position is beyond a transaction marker at offset 13.
    backlog.offer(Polled(records, {}, {SEQUENCES: {0: 14}}, {SEQUENCES: {0: 14}}))
    assert backlog.lag() == 3
    assert backlog.cut(waited=False) is None
    batch = backlog.cut(waited=True)
    assert batch is not None
    assert batch.plan.sequences == {0: (10, 14)}
    assert backlog.lag() == 0
    assert not backlog
    assert backlog.exhausted()


def test_a_plan_remembers_that_it_catches_up() -> None:
    (sequences,), _ = make_log(12, partitions=1)
    backlog = Backlog({}, 4, 100, catch_up_from=5)
    records = {0: [Record(n, s) for n, s in enumerate(sequences)]}
    backlog.offer(Polled(records, {}, {SEQUENCES: {0: 12}}, {SEQUENCES: {0: 12}}))
    plans = [batch.plan for _ in range(3) if (batch := backlog.cut(waited=False))]
    assert [plan.catching_up for plan in plans] == [True, False, False]
    for plan in plans:
        assert Plan.from_json(plan.to_json()) == plan
    old = {name: value for name, value in plans[1].to_json().items() if name != "hurried"}
    assert Plan.from_json(old) == plans[1]


def test_no_sequence_is_cut_while_items_are_unread() -> None:
    (sequences,), items = make_log(9, partitions=1)
    backlog = Backlog({}, 5, 100)
    records = {0: [Record(n, s) for n, s in enumerate(sequences)]}
    listed = {0: [Record(n, i) for n, i in enumerate(items)]}
    ends = {SEQUENCES: {0: 9}, ITEMS: {0: len(items) + 1}}
    backlog.offer(Polled(records, listed, {SEQUENCES: {0: 9}, ITEMS: {0: len(items)}}, ends))
    assert backlog.cut(waited=False) is None
    batch = backlog.cut(waited=True)
    assert batch is not None
    assert len(batch.items) == len(items)
    assert batch.sequences == []


def test_what_was_planned_before_the_rule_refused_it_is_left_out() -> None:
    sequences, items = make_log(20, partitions=1)
    beyond = dataclasses.replace(sequences[0][3], event_time=-1)
    stored = [*sequences[0][:3], beyond, *sequences[0][4:]]
    plan = Plan({0: (0, 10)}, {}, 10, checksum(stored[:10]))
    again = RecordedSource([[s.to_bytes() for s in stored]], items)
    batch = assemble(plan, *again.read(plan))
    assert batch.sequences == [*stored[:3], *stored[4:10]] and batch.poison == 1


def test_other_records_at_the_planned_offsets_are_refused() -> None:
    sequences, items = make_log(20, partitions=1)
    plan = _cut_all(RecordedSource(sequences, items), 10, 100)[0].plan
    changed = [dataclasses.replace(s, target=s.target + 1) for s in sequences[0]]
    with pytest.raises(TrainerError, match="offsets 0: 0-10.*recreated.*--fresh"):
        assemble(plan, *RecordedSource([changed], items).read(plan))
    with pytest.raises(TrainerError, match=r"other records \(4\)"):
        assemble(plan, *RecordedSource([sequences[0][:4]], items).read(plan))
