"""The indexer's work: items and handovers in, snapshots and appended items out.

No Kafka here: `process` feeds it. The order of a publication:

    1. a version number is reserved in the store: it is used once, whatever happens
    2. the directory `snapshots/<version>` appears whole, and is read back and verified
    3. items that were listed meanwhile are appended to it
    4. the pointer `current.json` is replaced: readers switch
    5. the store notes which version and handover are served
    6. old versions are removed

1 and 2 (`prepare`) may run in another thread while items are listed and appended to what is served
before: it takes seconds, and an item must not wait for it. The rest (`publish`) is quick.

A crash before 4 leaves the old version served; `recover` finishes 4 and 5 where 2 was done, so a
handover makes one snapshot. Items that are listed after the served snapshot are embedded with its
model and appended: file, then pointer. Appending again changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np
import structlog
from numpy.typing import NDArray

from indexer.building.placing import place
from indexer.errors import IndexerError
from indexer.indexing.config import IndexerConfig
from indexer.indexing.handover_queue import HandoverQueue
from indexer.indexing.item_store import ItemStore
from indexer.indexing.lifetimes import Lifetimes, Withdraw
from indexer.indexing.listing import Announced, KeepAside, Listing
from indexer.indexing.publication import Prepared, VersionBuilder
from indexer.indexing.recovery import last_good, pointer_to, remove_leftovers
from indexer.indexing.served_version import ServedVersion
from indexer.indexing.told_properties import ToldProperties
from indexer.indexing.version_record import VersionRecord
from indexer.snapshots.pointer import positions, write_pointer
from indexer.snapshots.snapshot import Snapshot
from indexer.snapshots.snapshot_facts import SnapshotFacts
from indexer.snapshots.snapshot_reading import ModelLoader, note_published, versions
from indexer.snapshots.snapshot_writing import remove_versions
from model.artifacts.verified_files import VerifiedFiles
from streaming.freed_memory import give_back
from streaming.item_lifetime import ItemsConfig
from streaming.statuses import IndexerStatus

log = structlog.get_logger(__name__)


class Indexer:
    """Keeps `data_dir/snapshots`, `data_dir/appended` and `data_dir/current.json`.

    Args:
        config: thresholds and retention.
        store: what is known, on disk.
        data_dir: the pipeline's directory; handovers are read from `data_dir/handover`.
        now_ms: the clock, for `published_at`.
        load_model: reads the weights of a handover or a snapshot.
        protected: versions that must stay on disk (those with an alias in the registry).
        keep_aside: is given the records of `items` that are refused.
        items: how long items live.
        withdraw: writes tombstones of items whose time is over.

    Attributes:
        served_version: what readers are served; None before the first snapshot.
        versions: what was done with versions and handovers.
        handovers: those that wait.
        listing: the items announced so far.
        properties: what readers are told of every item, whatever version answers.
        behind: `items` is being read up to its end: what readers were told holds until then, where
            it is newer, for a store that is filled anew meets each listing before its tombstone.
    """

    def __init__(
        self,
        config: IndexerConfig,
        store: ItemStore,
        data_dir: Path,
        now_ms: Callable[[], int],
        load_model: ModelLoader | None = None,
        protected: Callable[[], Collection[int]] = tuple,
        keep_aside: KeepAside = lambda _: None,
        items: ItemsConfig | None = None,
        withdraw: Withdraw = lambda *_: False,
    ) -> None:
        self.config = config
        self.store = store
        self.versions = VersionRecord(store)
        self.data_dir = data_dir
        self.served_version: ServedVersion | None = None
        self._now_ms = now_ms
        self._load_model = load_model
        self._protected = protected
        self.handovers = HandoverQueue(store, data_dir, config.max_backlog)
        self.listing = Listing(store, keep_aside)
        self._lifetimes = Lifetimes(items or ItemsConfig(), store, self.listing, withdraw)
        self._verified = VerifiedFiles()
        self._builder = VersionBuilder(
            config, store, data_dir, self.handovers, self.listing, load_model, self._verified
        )
        self.behind = False
        self.properties = ToldProperties(store, data_dir)
        self._settled: tuple[int, ServedVersion | None] = (-1, None)
        self._skipped = 0

    def recover(self) -> None:
        """Serve the last good version, and finish what a killed process left half done."""
        remove_leftovers(self.data_dir)
        note_published(self.data_dir)
        self.listing.untold = self.properties.recover()
        self.served_version = last_good(
            self.data_dir, self._now_ms, self._load_model, self._verified
        )
        if self.served_version is not None:
            self._note_served(self.served_version)
        self._tell()
        self.listing.recount(self.served_version)

    def listen(self, records: Sequence[Announced], position: dict[int, int]) -> None:
        """Take records of `items` and the position after them."""
        self.listing.listen(records, position, self.served_version)

    def _tell(self) -> None:
        """Tell readers what `items` said, and serve no more what is withdrawn.

        The properties come first: from then on no reader answers with these items, whatever version
        it has loaded. The lists follow, and the next version holds none of them.
        """
        if self.properties.tell(self.listing.untold, self.listing.withdrawn, self.behind):
            self.listing.untold = set()
        seen = self.listing.withdrawals
        if self._settled[0] == seen and self._settled[1] is self.served_version:
            return
        if self.served_version is not None:
            self.served_version = self.served_version.without(self._withdrawn_ids())
        self._settled = seen, self.served_version

    def append_waiting(self) -> int:
        """Make the items that are listed but not served retrievable; returns how many."""
        self._tell()
        waiting, before = self.listing.waiting, self.served_version
        if before is None or not waiting:
            return 0
        appended = self._appended(before, waiting)
        self.listing.waiting = set()
        if appended is None:
            return 0
        self.served_version = appended
        files = {one.file for one in appended.pointer.appended}
        for one in before.pointer.appended:
            if one.file not in files:
                (self.data_dir / one.file).unlink(missing_ok=True)
        return len(waiting)

    def _appended(self, served: ServedVersion, waiting: set[int]) -> ServedVersion | None:
        """What is served with these items, too, on disk; None where there is nothing to add."""
        if not waiting:
            return None
        merged = len(served.pointer.appended) >= self.config.max_appended
        listed = self.listing.of(waiting | (served.snapshot.appended_items if merged else set()))
        try:
            placed = place(served.base.model, listed)
        except IndexerError as error:
            log.error("listed items wait for the next snapshot", reason=str(error))
            return None
        position, now_ms = self.store.position, self._now_ms()
        appended = served.append(self.data_dir, placed, position, now_ms, merged=merged)
        log.info("items appended", version=served.base.version, items=len(waiting))
        return appended.without(self._withdrawn_ids()) if merged else appended

    def _withdrawn_ids(self) -> NDArray[np.int64]:
        return np.array(sorted(self.listing.withdrawn), np.int64)

    def index_handover(self, number: int) -> int | None:
        """Make a snapshot of a handover and serve it: `prepare`, then `publish`."""
        prepared = self.prepare(number)
        return None if prepared is None else self.publish(prepared)

    def prepare(self, number: int) -> Prepared | None:
        """`VersionBuilder.prepare`, beside what is served now."""
        return self._builder.prepare(number, self.served_version)

    def publish(self, prepared: Prepared) -> int:
        """Serve what was prepared, and the items that were listed meanwhile; returns its version.

        Raises:
            OSError: if the pointer cannot be written; the last good version goes on serving.
        """
        snapshot, made = prepared.snapshot, prepared.made
        served = ServedVersion.of(self.data_dir, snapshot, pointer_to(snapshot, self._now_ms()))
        # what was withdrawn while it was built
        served = served.without(self._withdrawn_ids())
        self.listing.settle(served)
        appended = self._appended(served, self.listing.waiting)
        if appended is None:
            write_pointer(self.data_dir, served.pointer)
        self.served_version = appended or served
        self.listing.waiting = set()
        self._note_served(self.served_version)
        if prepared.skipped:
            log.warning(
                "handovers skipped",
                first=prepared.skipped[0],
                last=prepared.skipped[-1],
                taken=prepared.handover,
            )
            self._skipped += len(prepared.skipped)
        if made.rebuild.deferred:
            log.warning(
                "more lists are due than a version writes: some wait",
                version=snapshot.version,
                lists=len(made.rebuild.deferred),
                rows=self.config.rebuild_rows,
            )
        log.info(
            "snapshot published",
            version=snapshot.version,
            handover=prepared.handover,
            items=len(self.served_version.snapshot.lists),
            rebuilt=len(made.rebuild.reasons),
            shared=len(made.rebuild.shared),
        )
        self._remove_old(snapshot)
        self._lifetimes.tend(self.served_version.snapshot, versions(self.data_dir)[0])
        give_back()
        return snapshot.version

    def _note_served(self, served: ServedVersion) -> None:
        self.handovers.nothing_served = False
        self.versions.commit_version(served.base.version, served.handover)
        # the next version asks for what was said since this one, or since its trainer's position
        facts = served.base.facts
        shown, learnt = positions(facts.position), facts.learnt_to("items")
        self.store.forget_places({p: min(shown.get(p, 0), o) for p, o in learnt.items()})

    def _remove_old(self, snapshot: Snapshot) -> None:
        spared = {snapshot.version, snapshot.facts.parent or 0, *self._protected()}
        removed = remove_versions(self.data_dir, self.config.keep_versions, spared)
        if removed:
            log.info("old snapshots removed", versions=removed)

    def status(self) -> IndexerStatus:
        """Counters and versions."""
        served = self.served_version
        facts = served.base.facts if served else SnapshotFacts()
        return IndexerStatus(
            state="serving" if served else "waiting for the first handover",
            version=served.base.version if served else None,
            handover=served.handover if served else None,
            handover_offsets=facts.offsets or None,
            catalogue_items=self.listing.catalogue_items,
            indexed_items=len(served.snapshot.lists) if served else 0,
            waiting_items=len(self.listing.waiting) if served else self.listing.catalogue_items,
            withdrawn_items=len(self.listing.withdrawn),
            hidden_items=len(self.listing.hidden),
            appended_items=len(served.snapshot.appended_items) if served else 0,
            pending_handovers=len(self.handovers.pending()),
            rebuilt_codes=len(facts.rebuilt_codes or []),
            shared_codes=facts.shared_codes,
            drift=facts.code_drift.summary or None,
            rebuild_reasons=_counted(facts.reasons),
            moved_items=facts.moved_items,
            deferred_codes=len(facts.deferred_codes),
            codebook_health=facts.codebook_health,
            codes=facts.codes,
            codes_in_use=facts.codes_in_use,
            last_refusal=self.handovers.last_refusal,
            snapshots_published=self.versions.snapshots_published,
            handovers_refused=self.versions.count_refused_handovers(),
            handovers_skipped=self._skipped,
            items_refused=self.listing.refused,
        )


def _counted(reasons: dict[str, list[str]]) -> dict[str, int]:
    """How many lists were built anew for each reason."""
    return dict(Counter(why for some in reasons.values() for why in some))
