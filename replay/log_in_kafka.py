"""What `clicks` holds of a staged log, and whether it is that log at all."""

from __future__ import annotations

from dataclasses import replace

from replay.errors import ReplayError
from replay.producer import Patience
from replay.resumption import CHUNK, Mark, Stored, find_stored
from replay.staged_log import StagedLog
from streaming.bounds import EventError
from streaming.events import HEARTBEAT, Click


def find_clicks(log: StagedLog, topic: str, patience: Patience, sent: int = 0) -> Stored:
    """What of the log's events `topic` holds, or held until Kafka deleted it.

    Args:
        log: the staged log.
        topic: of the clicks.
        patience: how long to wait for Kafka.
        sent: so many of the log's first clicks were stored at the least; of use where the topic's
            retention has deleted some.

    Raises:
        ReplayError: if Kafka stays away, or the topic holds another log. A log that has grown at
            its end is the same log.
    """
    stored = find_stored(topic, patience, _click_mark)
    ours = _event_ids(log, stored.complete) if stored.count else {}
    for position, identity in sorted(stored.present.items()):
        if ours.get(position) != identity:
            raise ReplayError(
                f"topic {topic} holds another log (its record {position} is {identity}, here that "
                f"is {ours.get(position, 'behind the end')}); begin anew with --fresh, or use "
                "another data directory or topic prefix"
            )
    return _with_deleted(log, stored, sent) if stored.deleted else stored


def _with_deleted(log: StagedLog, stored: Stored, sent: int) -> Stored:
    complete = max(stored.complete, sent // CHUNK * CHUNK)
    ours = _event_ids(log, complete)
    present = {p: identity for p, identity in stored.present.items() if p >= complete}
    present |= {p: identity for p, identity in ours.items() if p < sent}
    return replace(stored, complete=complete, present=present)


def _click_mark(value: bytes) -> Mark:
    try:
        click = Click.from_bytes(value)
    except EventError:
        return Mark("no click", 0)
    return Mark(None if click.event_type == HEARTBEAT else click.event_id, click.event_time)


def _event_ids(log: StagedLog, start: int) -> dict[int, str]:
    """Event ids of the chunk that begins at a position."""
    found = dict[int, str]()
    for batch in log.read_events(start):
        found |= dict(enumerate(batch.event_ids, batch.position))
        if len(found) >= CHUNK:
            break
    return found
