"""The backlog: what has been fetched and not yet trained, cut into micro-batches by it alone.

The rule of a cut: `batch_size` sequences in merge order, once every partition still shows a head
or has been read to its end (else a slower partition's older events could be overtaken). Fewer
only when the caller has waited long enough. New items are read to their end first, and travel in
the plan before whose sequences they are listed; many new items make plans of their own.

Where too many sequences wait, a plan says that its micro-batch is to catch up: it is learnt with
less work (`Learner.learn`).

A repeatable backlog knows no waiting, and no end but that of the log: what a micro-batch holds
then follows from the records alone, however they arrive. Items are listed with the first sequences
behind them, so those that a log announces before its clicks are always listed at the same place.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from model.training.micro_batch import (
    ITEMS,
    SEQUENCES,
    MicroBatch,
    Plan,
    Polled,
    Ranges,
    Record,
    TrainerError,
    checksum,
)
from streaming.events import Forgotten, UserSequence
from streaming.items import Item, Withdrawal

log = structlog.get_logger(__name__)

ENOUGH_BATCHES = 32
"""A partition with so many micro-batches of records is far ahead of another: it can wait."""


def _merge(
    heads: Mapping[int, deque[Record[UserSequence | Forgotten]]], limit: int | None
) -> _Merged:
    """Take up to `limit` sequences off the heads, in merge order, and the poison between them."""
    merged = _Merged()
    heap: list[tuple[int, int]] = []

    def show(partition: int) -> None:
        """Take what is no sequence from the head, and enter the next one, if any, into the race."""
        queue = heads[partition]
        while queue:
            head = queue[0].value
            if isinstance(head, UserSequence):
                heapq.heappush(heap, (head.event_time, partition))
                return
            merged.taken[partition] = queue.popleft().offset + 1
            if head is None:
                merged.poison += 1
            else:
                merged.forgotten.append((len(merged.sequences), head.user_id))

    for partition in heads:
        show(partition)
    while heap and (limit is None or len(merged.sequences) < limit):
        _, partition = heapq.heappop(heap)
        record = heads[partition].popleft()
        assert isinstance(record.value, UserSequence)  # noqa: S101 - only those enter the heap
        merged.sequences.append(record.value)
        merged.taken[partition] = record.offset + 1
        show(partition)
    return merged


@dataclass
class _Merged:
    sequences: list[UserSequence] = field(default_factory=list)
    taken: dict[int, int] = field(default_factory=dict)  # partition -> offset after the last taken
    poison: int = 0
    forgotten: list[tuple[int, int]] = field(default_factory=list)


class Backlog:
    """What has been fetched and not yet trained, and the rule that cuts micro-batches off it.

    `start` holds the offsets at which the next plan begins: stream -> partition -> offset. With
    more than `catch_up_from` sequences left behind it a micro-batch catches up; 0: none does.
    `repeatable` makes what is cut a function of the records alone.
    """

    def __init__(
        self,
        start: Mapping[str, Mapping[int, int]],
        batch_size: int,
        items_per_plan: int,
        catch_up_from: int = 0,
        repeatable: bool = False,
    ) -> None:
        self._polled = False
        self._catch_up_from = 0 if repeatable else catch_up_from
        self._repeatable = repeatable
        self._log_ends: dict[int, int] = {}
        self._batch_size = batch_size
        self._items_per_plan = items_per_plan
        self._begin = {s: dict(start.get(s, {})) for s in (SEQUENCES, ITEMS)}
        self._next: dict[str, dict[int, int]] = {SEQUENCES: {}, ITEMS: {}}
        self._ends: dict[str, dict[int, int]] = {SEQUENCES: {}, ITEMS: {}}
        self._sequences: dict[int, deque[Record[UserSequence | Forgotten]]] = {}
        self._items: dict[int, deque[Record[Item | Withdrawal]]] = {}

    def offer(self, polled: Polled) -> None:
        """Add what a poll brought."""
        self._polled = True
        for partition, sequences in polled.sequences.items():
            self._sequences.setdefault(partition, deque()).extend(sequences)
        for partition, items in polled.items.items():
            self._items.setdefault(partition, deque()).extend(items)
        for stream in (SEQUENCES, ITEMS):
            self._next[stream].update(polled.next_offsets.get(stream, {}))
            self._ends[stream].update(polled.ends.get(stream, {}))
        self._log_ends = polled.log_ends

    def __bool__(self) -> bool:
        return any(self._sequences.values()) or any(self._items.values())

    def lag(self) -> int | None:
        """Sequences not yet in a plan: those buffered, and the offsets not yet fetched.

        None before the first poll, when nobody knows.
        """
        if not self._polled:
            return None
        unread = sum(
            max(0, end - self._next[SEQUENCES].get(partition, 0))
            for partition, end in self._ends[SEQUENCES].items()
        )
        return unread + self.buffered()

    def buffered(self) -> int:
        """Sequences (poison included) that were fetched and are in no plan yet."""
        return sum(map(len, self._sequences.values()))

    def exhausted(self) -> bool:
        """Whether there was a poll, and every partition was fetched to its end."""
        return self._polled and all(
            self._at_end(stream, p) for stream, ends in self._ends.items() for p in ends
        )

    def log_ended(self) -> bool:
        """Whether every partition of `sequences` was fetched to where the log ends."""
        return bool(self._ends[SEQUENCES]) and all(map(self._at_log_end, self._ends[SEQUENCES]))

    def enough(self) -> set[int]:
        """Partitions of `sequences` that need no fetching now."""
        return {
            p for p, q in self._sequences.items() if len(q) >= ENOUGH_BATCHES * self._batch_size
        }

    def _at_end(self, stream: str, partition: int) -> bool:
        end = self._ends[stream].get(partition)
        return end is not None and self._next[stream].get(partition, 0) >= end

    def _at_log_end(self, partition: int) -> bool:
        end = self._log_ends.get(partition)
        return end is not None and self._next[SEQUENCES].get(partition, 0) >= end

    def cut(self, waited: bool) -> MicroBatch | None:
        """The next micro-batch, or None when more should be fetched first.

        `waited` says that the caller lingered long enough, or that nothing will follow: then
        whatever there is makes a micro-batch. A repeatable backlog does not ask.
        """
        waited = self.log_ended() if self._repeatable else waited
        items = sum(map(len, self._items.values()))
        if items > self._items_per_plan:
            return self._take(0, self._items_per_plan)
        if not all(self._at_end(ITEMS, p) for p in self._ends[ITEMS]):
            return self._take(0, items) if waited and items and not self._repeatable else None
        if self._full() or (waited and self):
            return self._take(self._batch_size, items)
        return None

    def _full(self) -> bool:
        """Whether `batch_size` sequences can be merged with no partition unseen."""
        if self.buffered() < self._batch_size:
            return False
        if self._repeatable:  # the end of what is there now says nothing about the log
            unseen = [p for p in self._ends[SEQUENCES] if not self._at_log_end(p)]
        else:
            unseen = [p for p in self._ends[SEQUENCES] if not self._at_end(SEQUENCES, p)]
        # A partition that is emptied by the cut was seen up to its last buffered record, and
        # that one is in the cut: only its successors could have been overtaken, so the cut
        # must leave it a head.
        copies = {p: deque(q) for p, q in self._sequences.items() if q}
        merged = _merge(copies, self._batch_size)
        return len(merged.sequences) == self._batch_size and all(copies.get(p) for p in unseen)

    def _take(self, events: int, items: int) -> MicroBatch:
        merged = _merge(self._sequences, events) if events else _Merged()
        said: list[Record[Item | Withdrawal]] = []
        item_ends: dict[int, int] = {}
        for partition in sorted(self._items):
            queue = self._items[partition]
            while queue and items > 0:
                record = queue.popleft()
                items -= 1
                item_ends[partition] = record.offset + 1
                said.append(record)
        plan = Plan(
            self._advance(SEQUENCES, merged.taken, self._sequences),
            self._advance(ITEMS, item_ends, self._items),
            len(merged.sequences),
            checksum(merged.sequences),
            catching_up=0 < self._catch_up_from < (self.lag() or 0),
        )
        return _micro_batch(plan, said, merged)

    def _advance(
        self, stream: str, taken: Mapping[int, int], left: Mapping[int, Sequence[Any]]
    ) -> Ranges:
        ranges: Ranges = {}
        for partition, end in sorted(taken.items()):
            if not left[partition]:  # past the markers behind the last record, too
                end = max(end, self._next[stream].get(partition, 0))
            ranges[partition] = (self._begin[stream].get(partition, 0), end)
            self._begin[stream][partition] = end
        return ranges


def assemble(
    plan: Plan,
    items: Mapping[int, Sequence[Record[Item | Withdrawal]]],
    sequences: Mapping[int, Sequence[Record[UserSequence | Forgotten]]],
) -> MicroBatch:
    """The micro-batch of a plan whose ranges were read again.

    Sequences that were planned before the rule of today refuses them (`streaming.bounds`) are left
    out: where the refused records account for all that is missing, nothing else has changed.

    Raises:
        TrainerError: if the ranges no longer hold the sequences that were planned.
    """
    merged = _merge({p: deque(q) for p, q in sorted(sequences.items())}, None)
    missing = plan.events - len(merged.sequences)
    if 0 < missing <= merged.poison:
        log.warning(
            "planned sequences are refused now", refused=missing, left=plan.events - missing
        )
    elif missing or checksum(merged.sequences) != plan.checksum:
        where = ", ".join(f"{p}: {a}-{b}" for p, (a, b) in plan.sequences.items())
        raise TrainerError(
            f"the journal planned {plan.events} sequences at offsets {where}, but other records "
            f"({len(merged.sequences)}) are there now: the topic was recreated, or its retention "
            "deleted them; restore the topic; or, if it was retention, move trainer/journal of the "
            "data directory away: training then goes on from the last checkpoint; else begin anew "
            "with --fresh"
        )
    return _micro_batch(plan, [r for p in sorted(items) for r in items[p]], merged)


def _micro_batch(
    plan: Plan, said: Iterable[Record[Item | Withdrawal]], merged: _Merged
) -> MicroBatch:
    """What is planned, of the records of `items` and of `sequences`, in order."""
    listed: list[Item] = []
    withdrawn: dict[int, int] = {}
    poison = merged.poison
    for record in said:
        if isinstance(record.value, Item):
            listed.append(record.value)
            withdrawn.pop(record.value.item_id, None)
        elif record.value is not None:
            withdrawn[record.value.item_id] = record.time
        else:
            poison += 1
    return MicroBatch(plan, listed, merged.sequences, poison, withdrawn, merged.forgotten)
