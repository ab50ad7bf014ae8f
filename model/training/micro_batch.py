"""Micro-batches: which records are trained together, and in which order.

A plan names its records by offset ranges, half open, per partition of `sequences` and of `items`.
Offsets in a range need not all hold a record: transaction markers, aborted records and compacted
keys leave gaps. The order inside a micro-batch follows from the ranges alone: the partitions are
merged by the event time at their heads, ties by partition number, each partition in offset order.
So the same ranges give the same micro-batch, before and after a crash.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from streaming.events import Forgotten, UserSequence
from streaming.items import Item, Withdrawal

SEQUENCES = "sequences"
ITEMS = "items"

Ranges = dict[int, tuple[int, int]]
"""Partition -> first offset and the offset after the last."""

V = TypeVar("V")


class TrainerError(RuntimeError):
    """The trainer cannot go on; the message says what, where, and what to do."""


@dataclass(frozen=True, slots=True)
class Record(Generic[V]):
    """One record as read; `value` is None where it was poison (logged by the source).

    `time` is the record's own, in ms.
    """

    offset: int
    value: V | None
    time: int = 0


@dataclass
class Polled:
    """What one poll of a source brought.

    Attributes:
        sequences, items: partition -> records in offset order.
        next_offsets: stream -> partition -> the offset after all that was returned so far,
            transaction markers included.
        ends: stream -> partition -> the end of what can be read now.
        log_ends: partition of `sequences` -> where the log ends; empty while nobody knows.
        final: nothing will ever follow those ends (a recorded source; never Kafka).
    """

    sequences: dict[int, list[Record[UserSequence | Forgotten]]] = field(default_factory=dict)
    items: dict[int, list[Record[Item | Withdrawal]]] = field(default_factory=dict)
    next_offsets: dict[str, dict[int, int]] = field(default_factory=dict)
    ends: dict[str, dict[int, int]] = field(default_factory=dict)
    log_ends: dict[int, int] = field(default_factory=dict)
    final: bool = False


@dataclass(frozen=True)
class Plan:
    """Offset ranges of one micro-batch, with what is needed to know its records again.

    Attributes:
        sequences, items: partition -> [start, end).
        events: sequences in it, poison not counted.
        checksum: CRC-32 over the sequences in training order.
        catching_up: too many sequences waited when it was cut, so it is learnt quickly.
    """

    sequences: Ranges
    items: Ranges
    events: int
    checksum: int
    catching_up: bool = False

    def to_json(self) -> dict[str, Any]:
        """A JSON-able form."""
        return {
            SEQUENCES: {str(p): r for p, r in self.sequences.items()},
            ITEMS: {str(p): r for p, r in self.items.items()},
            "events": self.events,
            "checksum": self.checksum,
            "hurried": self.catching_up,  # the journal's first name of it
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Plan:
        """Read `to_json`'s form back."""

        def ranges(stream: str) -> Ranges:
            return {int(p): (int(start), int(end)) for p, (start, end) in body[stream].items()}

        numbers = int(body["events"]), int(body["checksum"])
        return cls(ranges(SEQUENCES), ranges(ITEMS), *numbers, bool(body.get("hurried", False)))


@dataclass(frozen=True)
class MicroBatch:
    """A plan and its records, in training order.

    Attributes:
        plan: what it was cut by.
        items: those that are listed.
        sequences: in training order.
        poison: how many records were skipped.
        withdrawn: item id -> when it was withdrawn, in ms, where that is the last word about it.
        forgotten: the users who are to be forgotten, each with the number of sequences before
            which that was said.
    """

    plan: Plan
    items: list[Item]
    sequences: list[UserSequence]
    poison: int
    withdrawn: dict[int, int] = field(default_factory=dict)
    forgotten: list[tuple[int, int]] = field(default_factory=list)


def checksum(sequences: Iterable[UserSequence]) -> int:
    """CRC-32 that changes with any sequence, and with their order."""
    crc = 0
    for s in sequences:
        crc = zlib.crc32(f"{s.event_id} {s.user_id} {s.position} {s.target}\n".encode(), crc)
    return crc
