"""From a log to the topics it must become: plain, slow, obviously right.

It holds for one partition whose watermark moves with every record, and no restart of the job: after
one, a click behind the old watermark is on time if its user has no later one that went out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from streaming.events import HEARTBEAT, HISTORY_LENGTH, Click, EventError, UserSequence


@dataclass(frozen=True)
class Record:
    """A record of `clicks`; `timestamp` is the record's own, in milliseconds."""

    key: bytes | None
    value: bytes | None
    timestamp: int
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass
class Expected:
    """Sequences of each user in order; late clicks; dead letters as (offset, field)."""

    sequences: dict[int, list[UserSequence]] = field(default_factory=lambda: defaultdict(list))
    late: list[Record] = field(default_factory=list)
    dead_letters: list[tuple[int, str]] = field(default_factory=list)
    duplicates: int = 0


def read(record: Record, max_ahead_ms: int) -> Click | str:
    """The click, or the field that is wrong."""
    if record.value is None:
        return "value"
    try:
        click = Click.from_bytes(record.value)
    except EventError as error:
        named = str(error).split()[0]
        return "value" if named == "not" else named
    for name in ("user_id", "item_id", "event_time", "schema_version"):
        if not -(2**63) <= getattr(click, name) < 2**63:
            return name
    if not 0 <= click.event_time <= record.timestamp + max_ahead_ms:
        return "event_time"
    if click.event_type != HEARTBEAT and record.key != click.key():
        return "key"
    return click


def expect(
    records: Sequence[Record],
    *,
    delay_ms: int = 5000,
    max_ahead_ms: int = 86_400_000,
    remembered: int = 1000,
) -> Expected:
    """What the job makes of `records`, in the order of their offsets."""
    out = Expected()
    watermark = -1
    waiting: list[tuple[int, int, Click]] = []
    seen: dict[int, list[str]] = defaultdict(list)
    for offset, record in enumerate(records):
        click = read(record, max_ahead_ms)
        if isinstance(click, str):
            out.dead_letters.append((offset, click))
            continue
        if click.event_type != HEARTBEAT:
            if click.event_id in seen[click.user_id]:
                out.duplicates += 1
            else:
                seen[click.user_id] = [*seen[click.user_id], click.event_id][-remembered:]
                if click.event_time <= watermark:
                    out.late.append(record)
                else:
                    waiting.append((click.event_time, offset, click))
        watermark = max(watermark, click.event_time - delay_ms)
        for ready in sorted(w for w in waiting if w[0] <= watermark):
            _emit(out.sequences[ready[2].user_id], ready[2])
        waiting = [w for w in waiting if w[0] > watermark]
    return out


def _emit(sequences: list[UserSequence], click: Click) -> None:
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
        )
    )
