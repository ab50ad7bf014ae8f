"""From a log to the topics it must become: plain, slow, obviously right.

It holds while the job is not restarted: after a restart, a click behind the old watermark is on
time if its user has no later one that went out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from streaming.bounds import EventError, in_milliseconds
from streaming.events import HEARTBEAT, HISTORY_LENGTH, Click, UserSequence


@dataclass(frozen=True)
class Record:
    """A record of `clicks`; `timestamp` is the record's own, in milliseconds."""

    key: bytes | None
    value: bytes | None
    timestamp: int
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass
class Expected:
    """Sequences of each user in order; late clicks; dead letters by (partition, offset), each with
    the field that is wrong."""

    sequences: dict[int, list[UserSequence]] = field(default_factory=lambda: defaultdict(list))
    late: list[Record] = field(default_factory=list)
    dead_letters: dict[tuple[int, int], tuple[Record, str]] = field(default_factory=dict)
    duplicates: int = 0


def read(record: Record, max_ahead_ms: int, max_value_bytes: int = 1 << 20) -> Click | str:
    """The click, or the field that is wrong."""
    if record.value is None or len(record.value) > max_value_bytes:
        return "value"
    try:
        click = Click.from_bytes(record.value)
    except EventError as error:
        named = str(error).split()[0]
        return "value" if named == "not" else named
    try:
        in_milliseconds("event_time", click.event_time)
    except EventError:
        return "event_time"
    if click.event_time > record.timestamp + max_ahead_ms:
        return "event_time"
    if click.event_type != HEARTBEAT and record.key not in keys(click):
        return "key"
    return click


def keys(click: Click) -> tuple[bytes, ...]:
    """The user by number or by text."""
    text = click.external_user_id
    return (click.key(), text.encode()) if text else (click.key(),)


class Oracle:
    """Follows a log piece by piece.

    Of a single partition, whose watermark moves with every record, everything is known. With
    several, how they interleave is not; so their logs come in pieces, each of which the job has
    finished before the next is sent. What is behind the watermark of the pieces before is late,
    what is ahead of its own partition's is on time, and a click between the two would be either. A
    partition without records in a piece has been idle, and has held nothing back.
    """

    def __init__(
        self, *, delay_ms: int = 5000, max_ahead_ms: int = 300_000, remembered: int = 1000
    ) -> None:
        self.delay_ms, self.max_ahead_ms, self.remembered = delay_ms, max_ahead_ms, remembered
        self._sequences: dict[int, list[UserSequence]] = defaultdict(list)
        self._seen: dict[int, list[str]] = defaultdict(list)
        self._offsets: dict[int, int] = defaultdict(int)
        self._watermarks: dict[int, int] = defaultdict(lambda: -1)
        self._texts: dict[int, str] = {}
        self._watermark = -1
        self._waiting: list[tuple[int, int, Click]] = []
        self._arrived = 0

    def expect(self, log: Sequence[tuple[int, Record]]) -> Expected:
        """What the job makes of one more piece: partitions and records, each partition in order.

        Raises:
            ValueError: if a click may be late or not.
        """
        out = Expected()
        active = {partition for partition, _ in log}
        alone = len(active | set(self._offsets)) == 1
        for partition, record in log:
            self._read(partition, record, out)
            if alone:
                self._advance(active, out)
        self._advance(active, out)
        return out

    def _read(self, partition: int, record: Record, out: Expected) -> None:
        offset = self._offsets[partition]
        self._offsets[partition] += 1
        click = read(record, self.max_ahead_ms)
        if isinstance(click, str):
            out.dead_letters[partition, offset] = (record, click)
            return
        text = click.external_user_id
        if text and self._texts.setdefault(click.user_id, text) != text:
            out.dead_letters[partition, offset] = (record, "user_id")
        elif click.event_type != HEARTBEAT:
            if click.event_id in self._seen[click.user_id]:
                out.duplicates += 1
            else:
                seen = [*self._seen[click.user_id], click.event_id]
                self._seen[click.user_id] = seen[-self.remembered :]
                if click.event_time <= self._watermark:
                    out.late.append(record)
                elif click.event_time <= self._watermarks[partition]:
                    raise ValueError(f"offset {offset} of {partition} may be late or not")
                else:
                    self._waiting.append((click.event_time, self._arrived, click))
                    self._arrived += 1
        clock = click.event_time
        if click.event_type != HEARTBEAT:
            clock = min(clock, record.timestamp)
        moved = clock - self.delay_ms
        self._watermarks[partition] = max(self._watermarks[partition], moved)

    def _advance(self, active: set[int], out: Expected) -> None:
        lowest = min((self._watermarks[p] for p in active), default=-1)
        self._watermark = max(self._watermark, lowest)
        for when, _, click in sorted(self._waiting, key=lambda waits: waits[:2]):
            if when <= self._watermark:
                out.sequences[click.user_id].append(self._sequence(click))
        self._waiting = [waits for waits in self._waiting if waits[0] > self._watermark]

    def _sequence(self, click: Click) -> UserSequence:
        sequences = self._sequences[click.user_id]
        before = sequences[-HISTORY_LENGTH:]
        sequences.append(
            UserSequence(
                click.event_id,
                click.user_id,
                click.event_time,
                len(sequences) + 1,
                [s.target for s in before],
                [s.event_time for s in before],
                click.item_id,
                self._texts.get(click.user_id, ""),
                click.external_item_id,
            )
        )
        return sequences[-1]


def expect(records: Sequence[Record], **settings: int) -> Expected:
    """What the job makes of a log of one partition, in the order of the offsets."""
    return Oracle(**settings).expect([(0, record) for record in records])
