"""Which handovers wait to be indexed, and which of them is next."""

from __future__ import annotations

from pathlib import Path

import structlog

from indexer.indexing.handovers import KIND, handovers, tell_refused
from indexer.indexing.item_store import ItemStore
from indexer.indexing.version_record import VersionRecord
from model.artifacts.handover_facts import HandoverFacts
from model.artifacts.manifest import ManifestError, read_manifest

log = structlog.get_logger(__name__)

ITEMS_WAIT_S = 30.0
"""So long a handover waits for the items that its trainer had read: they are read in seconds, and
where Kafka is away the items that are known had better be served by the new model."""


class HandoverQueue:
    """The handovers that wait to be indexed.

    Args:
        store: knows which were indexed and which were refused.
        data_dir: the pipeline's directory.
        max_backlog: with more waiting than this the newest is next, and the others are skipped.

    Attributes:
        last_refusal: which handover was refused last, and why; None since the start.
        nothing_served: whether there is no version that readers are served.
    """

    def __init__(self, store: ItemStore, data_dir: Path, max_backlog: int) -> None:
        self._store = store
        self._versions = VersionRecord(store)
        self._data_dir = data_dir
        self._max_backlog = max_backlog
        self.last_refusal: str | None = None
        self.nothing_served = True
        self._waits: tuple[int, float] | None = None  # for its items: which one, since when

    def pending(self) -> list[int]:
        """Numbers of the handovers that are newer than what was indexed, ascending.

        While nothing is served, as after a loss of all versions, the newest one is among them.
        """
        done = self._versions.newest("handover")
        numbers = handovers(self._data_dir).numbers()
        if self.nothing_served:
            done = min(done, numbers[-1] - 1) if numbers else done
        return [n for n in numbers if n > done and self._versions.refused_handover(n) is None]

    def next(self) -> int | None:
        """The handover to index now: the oldest that waits, or the newest where many do."""
        waiting = self.pending()
        return waiting[-1] if len(waiting) > self._max_backlog else min(waiting, default=None)

    def due(self, now_s: float) -> int | None:
        """The next handover, once the items that its trainer had read were read here, too.

        It waits `ITEMS_WAIT_S` for them, and no longer.
        """
        number = self.next()
        if number is None or self.has_items_of(number):
            return number
        if self._waits is None or self._waits[0] != number:
            self._waits = (number, now_s)
        if now_s - self._waits[1] <= ITEMS_WAIT_S:
            return None
        log.warning("handover indexed before all its items were read", number=number)
        return number

    def has_items_of(self, number: int) -> bool:
        """Whether every item that the trainer of a handover had read was read here, too."""
        try:
            manifest = read_manifest(handovers(self._data_dir).path(number), KIND)
            learnt_to = HandoverFacts.of(manifest).learnt_to("items")
        except ManifestError:
            return True  # it is refused when it is indexed
        mine = self._store.position
        return all(mine.get(p, 0) >= offset for p, offset in learnt_to.items())

    def refuse(self, number: int, reason: str) -> None:
        """Index a handover never, with the reason on record, and tell the trainer."""
        log.error("handover refused", number=number, reason=reason)
        tell_refused(self._data_dir, number, reason)
        self._versions.refuse_handover(number, reason)
        self.last_refusal = f"handover {number}: {reason}"
