"""The trainer's counters: part of every checkpoint, and the better part of its status."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from model.artifacts.handover_facts import HandoverFacts
from model.training.micro_batch import ITEMS, SEQUENCES, MicroBatch
from model.training.quarantine import without


@dataclass
class Progress:
    """What has been done up to a journal entry.

    Attributes:
        entry: number of the last journal entry that was carried out.
        offsets: stream -> partition -> offset after the last finished micro-batch.
        sequences_read: sequences in plans so far: trained ones and repeated ones.
        trained_events: sequences trained, each once.
        repeated: sequences dropped because their user's position had been trained before.
        poison: records skipped because they broke their schema.
        micro_batches: plans that held sequences, whether they were learnt or set aside.
        quarantined: sequences that were set aside, as their micro-batch could not be learnt.
        quarantined_batches, quarantined_in_a_row: such micro-batches, and how many of them are the
            last ones.
        last_quarantine: what is known of the last one; see `model.training.quarantine`.
        items_listed: `items` records listed (an item announced again counts again).
        unlisted_targets: events on items that no record had announced: the model knows those by
            their id alone.
        forgotten: requests to forget a user.
        to_forget: so many checkpoints are to be written, each by itself, until none is left that
            knows a user who was forgotten.
        event_time_range: [first, last] event time trained, in ms; empty before the first.
        published_events, published_event_time: `trained_events` and last event time (ms) at the
            last publication.
        handover: facts of the last handover.
        handover_entry: the entry that published it, 0 before the first.
    """

    entry: int = 0
    offsets: dict[str, dict[int, int]] = field(default_factory=lambda: {SEQUENCES: {}, ITEMS: {}})
    sequences_read: int = 0
    trained_events: int = 0
    repeated: int = 0
    poison: int = 0
    micro_batches: int = 0
    items_listed: int = 0
    unlisted_targets: int = 0
    quarantined: int = 0
    quarantined_batches: int = 0
    quarantined_in_a_row: int = 0
    last_quarantine: dict[str, Any] | None = None
    forgotten: int = 0
    to_forget: int = 0
    event_time_range: list[int] = field(default_factory=list)
    published_events: int = 0
    published_event_time: int | None = None
    handover: HandoverFacts | None = None
    handover_entry: int = 0

    @property
    def handovers(self) -> int:
        """Number of the last handover, 0 before the first."""
        return self.handover.sequence if self.handover else 0

    @property
    def unpublished_events(self) -> int:
        """Events trained since the last publication."""
        return self.trained_events - self.published_events

    def to_json(self) -> dict[str, Any]:
        """A JSON-able form."""
        handover = self.handover.to_json() if self.handover else None
        return asdict(self) | {"offsets": self.offsets_json(), "handover": handover}

    def offsets_json(self) -> dict[str, dict[str, int]]:
        """The offsets with decimal partition numbers as keys."""
        return {s: {str(p): o for p, o in sorted(of.items())} for s, of in self.offsets.items()}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Progress:
        """Read `to_json`'s form back."""
        known = {f.name: body[f.name] for f in fields(cls) if f.name in body}
        offsets = {s: {int(p): int(o) for p, o in of.items()} for s, of in body["offsets"].items()}
        handover = HandoverFacts(**body["handover"]) if body.get("handover") else None
        return cls(**(known | {"offsets": offsets, "handover": handover}))

    def count(self, batch: MicroBatch, event_times: list[int]) -> None:
        """Count a finished micro-batch of which the events at `event_times` were trained."""
        self._pass(batch)
        self.trained_events += len(event_times)
        self.repeated += len(batch.sequences) - len(event_times)
        if event_times:
            self.quarantined_in_a_row = 0
            times = self.event_time_range + event_times
            self.event_time_range = [min(times), max(times)]

    def set_aside(self, batch: MicroBatch, events: int, facts: dict[str, Any]) -> None:
        """Count a micro-batch of which `events` would have been trained, but could not be."""
        self._pass(batch)
        self.repeated += len(batch.sequences) - events
        self.quarantined += events
        self.quarantined_batches += 1
        self.quarantined_in_a_row += 1
        self.last_quarantine = facts

    def forget(self, users: Collection[int]) -> None:
        """Count users who were forgotten, and know none of them."""
        self.forgotten += len(users)
        if self.last_quarantine is not None:
            self.last_quarantine = without(self.last_quarantine, users)

    def _pass(self, batch: MicroBatch) -> None:
        """Count what a micro-batch holds, and go on behind it."""
        for stream, ranges in ((SEQUENCES, batch.plan.sequences), (ITEMS, batch.plan.items)):
            self.offsets[stream].update({p: end for p, (_, end) in ranges.items()})
        self.sequences_read += len(batch.sequences)
        self.poison += batch.poison
        self.micro_batches += bool(batch.sequences)
        self.items_listed += len(batch.items)
