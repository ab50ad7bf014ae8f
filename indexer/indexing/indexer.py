"""The indexer's work: items and handovers in, snapshots and appended items out.

No Kafka here: `indexing_process` feeds it. The order of a publication:

    1. a version number is reserved in the store: it is used once, whatever happens
    2. the directory `snapshots/<version>` appears whole, and is read back and verified
    3. items that were listed meanwhile are appended to it
    4. the pointer `current.json` is replaced: readers switch
    5. vectors, codes, lists and what is served go to the store in one batch
    6. old versions are removed

1 and 2 (`prepare`) may run in another thread while items are listed and appended to what is served
before: it takes seconds, and an item must not wait for it. The rest (`publish`) is quick.

A crash before 4 leaves the old version served; `recover` finishes 4 and 5 where 2 was done, so a
handover makes one snapshot. Items that are listed after the served snapshot are embedded with its
model and appended: file, then pointer, then store. Appending again changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from indexer.building.assignment import embed
from indexer.building.build import Build, build
from indexer.errors import IndexerError, SnapshotError
from indexer.indexing.config import IndexerConfig
from indexer.indexing.difference import difference
from indexer.indexing.handovers import (
    ModelExport,
    handover_numbers,
    handover_path,
    load_handover,
    needed_position,
)
from indexer.indexing.item_store import ItemStore
from indexer.indexing.listing import Announced, KeepAside, Listing
from indexer.indexing.publication import write_version
from indexer.indexing.recovery import last_good, pointer_to, remove_leftovers, without_appended
from indexer.indexing.served_version import ServedVersion
from indexer.snapshots.pointer import read_pointer, write_pointer
from indexer.snapshots.published import published
from indexer.snapshots.snapshot import (
    ModelLoader,
    Snapshot,
    load_version,
    note_published,
    remove_versions,
    versions,
)
from indexer.snapshots.withdrawn import read_withdrawn, write_withdrawn
from model.artifacts.manifest import ManifestError

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Prepared:
    """A version that lies on disk and that nobody is served yet.

    Attributes:
        snapshot: as it was read back.
        handover: number of what it was made of.
        made: what was built anew, and why.
        skipped: numbers of older handovers that it makes superfluous.
    """

    snapshot: Snapshot
    handover: int
    made: Build
    skipped: list[int]


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

    Attributes:
        serving: what readers are served; None before the first snapshot.
        listing: the items announced so far.
        behind: `items` is being read up to its end: what was withdrawn stays so until then, for a
            store that is filled anew meets each listing before its tombstone.
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
    ) -> None:
        self.config = config
        self.store = store
        self.data_dir = data_dir
        self.serving: ServedVersion | None = None
        self._stored: ServedVersion | None = None  # what the store holds, where that is known
        self._now_ms = now_ms
        self._load_model = load_model
        self._protected = protected
        self.listing = Listing(store, keep_aside)
        self.behind = False
        self._told: set[int] = set()  # what `withdrawn.json` says
        self._settled: tuple[tuple[int, bool], ServedVersion | None] = ((-1, False), None)
        self._last_refusal: str | None = None
        self._last_unusable = ""
        self._skipped = 0

    def recover(self) -> None:
        """Serve the last good version, and finish what a killed process left half done."""
        remove_leftovers(self.data_dir)
        note_published(self.data_dir)
        try:
            self._told = set(read_withdrawn(self.data_dir).tolist())
        except SnapshotError as error:
            log.error("written anew from what `items` said", reason=str(error))
            write_withdrawn(self.data_dir, self.listing.withdrawn)
        committed = self.store.newest("version")
        found = last_good(self.data_dir, committed, self._now_ms, self._load_model)
        if found is not None:
            snapshot, pointer = found
            try:
                self.serving = ServedVersion.of(self.data_dir, snapshot, pointer)
            except SnapshotError as error:  # its items count as waiting and are appended anew
                log.error("appended items unusable", reason=str(error))
                pointer = without_appended(pointer)
                write_pointer(self.data_dir, pointer)
                self.serving = ServedVersion.of(self.data_dir, snapshot, pointer)
            if self.store.state != self.serving.state:
                self._commit(self.serving)
            self._stored = self.serving
        self._withdraw()
        self.listing.recount(self.serving)

    def _follow(self) -> None:
        """Where somebody moved the pointer to another version (a rollback), go on from there."""
        if self.serving is None:
            return
        try:
            pointer = read_pointer(self.data_dir)
            if pointer is None or pointer.version == self.serving.pointer.version:
                return
            snapshot = load_version(
                self.data_dir, pointer.version, self._load_model, pointer.digest
            )
            self.serving = ServedVersion.of(self.data_dir, snapshot, pointer)
        except SnapshotError as error:
            if str(error) != self._last_unusable:
                log.error("pointer was moved to what is unusable", reason=str(error))
            self._last_unusable = str(error)
            return
        log.warning("pointer was moved", version=pointer.version)
        self._commit(self.serving)
        self.listing.recount(self.serving)

    def listen(self, records: Sequence[Announced], position: dict[int, int]) -> None:
        """Take records of `items` and the position after them."""
        self.listing.listen(records, position, self.serving)

    def _withdraw(self) -> None:
        """Tell readers what is withdrawn, and serve it no more.

        The file comes first: from then on no reader answers with these items, whatever version it
        has loaded. The lists follow, and the next version holds none of them.
        """
        withdrawn, seen = self.listing.withdrawn, (self.listing.withdrawals, self.behind)
        if self._settled[0] == seen and self._settled[1] is self.serving:
            return
        told = self._told | withdrawn if self.behind or not self.store.position else withdrawn
        if told != self._told:
            write_withdrawn(self.data_dir, told)
            self._told = set(told)
        if self.serving is not None:
            ids = np.fromiter(withdrawn, np.int64, len(withdrawn))
            left = self.serving.without(ids)
            if left is not self.serving:
                gone = ids[self.serving.served.lists.locate(ids)[0] >= 0]
                self.serving = left
                self._commit(left, np.empty(0, np.int64), gone)
        self._settled = (seen, self.serving)

    def append_waiting(self) -> int:
        """Make the items that are listed but not served retrievable; returns how many."""
        self._follow()
        self._withdraw()
        waiting, before = self.listing.waiting, self.serving
        if before is None or not waiting:
            return 0
        appended = self._appended(before, waiting)
        self.listing.waiting = set()
        if appended is None:
            return 0
        self.serving = appended
        self._commit(appended, np.array(sorted(waiting), np.int64))
        files = {one.file for one in appended.pointer.appended}
        for one in before.pointer.appended:
            if one.file not in files:
                (self.data_dir / one.file).unlink(missing_ok=True)
        return len(waiting)

    def _appended(self, serving: ServedVersion, waiting: set[int]) -> ServedVersion | None:
        """What is served with these items, too, on disk; None where there is nothing to add."""
        if not waiting:
            return None
        merged = len(serving.pointer.appended) >= self.config.max_appended
        listed = self.listing.of(waiting | (serving.served.appended_items if merged else set()))
        try:
            codes_nQ, vectors_nD = embed(serving.served.model, [one.item for one in listed])
        except IndexerError as error:
            log.error("listed items wait for the next snapshot", reason=str(error))
            return None
        appended = serving.append(
            self.data_dir,
            listed,
            codes_nQ,
            vectors_nD,
            self.store.position,
            self._now_ms(),
            merged=merged,
        )
        log.info("items appended", version=serving.base.version, items=len(waiting))
        return appended

    def pending(self) -> list[int]:
        """Numbers of the handovers that are newer than what was indexed, ascending."""
        done = self.store.newest("handover")
        numbers = handover_numbers(self.data_dir)
        return [n for n in numbers if n > done and self.store.refused_handover(n) is None]

    def next_handover(self) -> int | None:
        """The handover to index now: the oldest that waits, or the newest where many do."""
        waiting = self.pending()
        return waiting[-1] if len(waiting) > self.config.max_backlog else min(waiting, default=None)

    def has_items_of(self, number: int) -> bool:
        """Whether every item that the trainer of a handover had read was read here, too."""
        try:
            needed = needed_position(self.data_dir, number)
        except ManifestError:
            return True  # `index_handover` refuses it
        mine = self.store.position
        return all(mine.get(p, 0) >= offset for p, offset in needed.items())

    def index_handover(self, number: int) -> int | None:
        """Make a snapshot of a handover and serve it: `prepare`, then `publish`."""
        self._follow()
        prepared = self.prepare(number)
        return None if prepared is None else self.publish(prepared)

    def prepare(self, number: int) -> Prepared | None:
        """Make a snapshot of a handover; what is served stays as it is.

        One at a time, from any thread, also while other methods than this are called from another.

        Returns:
            None if the handover was refused (the reason is on record) or has been removed
            meanwhile.

        Raises:
            OSError: if the snapshot cannot be written; the handover is tried again.
        """
        position, serving = self.store.position, self.serving
        skipped = [n for n in self.pending() if n < number]
        try:
            handover = load_handover(self.data_dir, number, self._load_model)
            made = self._build(handover, serving, serving.base if serving else None)
            snapshot = self._write(handover, made, position, serving, share=True)
            if snapshot is None:  # a list shared with the parent was damaged on disk
                made = self._build(handover, serving, None)
                snapshot = self._write(handover, made, position, serving, share=False)
        except (ValueError, OSError) as error:
            if not handover_path(self.data_dir, number).is_dir():
                log.warning("handover was removed before it was indexed", number=number)
                return None
            if isinstance(error, OSError):
                raise
            self._refuse(number, str(error))
            return None
        if snapshot is None:
            raise IndexerError(
                f"the snapshot of handover {number} cannot be read back; see the log"
            )
        return Prepared(snapshot, number, made, skipped)

    def publish(self, prepared: Prepared) -> int:
        """Serve what was prepared, and the items that were listed meanwhile; returns its version.

        Raises:
            OSError: if the pointer cannot be written; the last good version goes on serving.
        """
        snapshot, made = prepared.snapshot, prepared.made
        serving = ServedVersion.of(self.data_dir, snapshot, pointer_to(snapshot, self._now_ms()))
        # what was withdrawn while it was built
        serving = serving.without(np.array(sorted(self.listing.withdrawn), np.int64))
        self.listing.settle(serving)
        appended = self._appended(serving, self.listing.waiting)
        if appended is None:
            write_pointer(self.data_dir, serving.pointer)
        self.serving = appended or serving
        self.listing.waiting = set()
        self._commit(self.serving)
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
                "a flood of drift: some lists wait",
                version=snapshot.version,
                lists=len(made.rebuild.deferred),
                built=self.config.drift_rebuilds,
            )
        log.info(
            "snapshot published",
            version=snapshot.version,
            handover=prepared.handover,
            items=len(self.serving.served.lists),
            rebuilt=len(made.rebuild.reasons),
            shared=len(made.rebuild.shared),
        )
        self._remove_old(snapshot)
        return snapshot.version

    def _refuse(self, number: int, reason: str) -> None:
        log.error("handover refused", number=number, reason=reason)
        self.store.refuse_handover(number, reason)
        self._last_refusal = f"handover {number}: {reason}"

    def _build(
        self, handover: ModelExport, serving: ServedVersion | None, parent: Snapshot | None
    ) -> Build:
        listed = list(self.store.all_listed())
        learnt = handover.position
        changed = {one.item.item_id for one in listed if learnt and one.after(learnt)}
        return build(
            handover.model,
            listed,
            changed,
            parent,
            serving.geometry if serving else None,
            withdrawn=self.store.withdrawn(),
            drift_threshold=self.config.drift_threshold,
            vector_tolerance=self.config.vector_tolerance,
            drift_rebuilds=self.config.drift_rebuilds,
        )

    def _write(
        self,
        handover: ModelExport,
        made: Build,
        position: dict[int, int],
        serving: ServedVersion | None,
        *,
        share: bool,
    ) -> Snapshot | None:
        pointed = serving.pointer.version if serving else 0
        base = serving.base if serving else None
        taken = [pointed, *versions(self.data_dir), *(published(self.data_dir) or ())]
        version = self.store.reserve_version(max(taken) + 1)
        facts = {
            **made.facts(base, self.config.drift_threshold),
            "catalogue_items": self.listing.catalogue_items,
            "position": {str(p): offset for p, offset in position.items()},
        }
        parent = base if share else None
        return write_version(self.data_dir, version, handover, made, facts, parent)

    def _commit(
        self,
        serving: ServedVersion,
        changed: NDArray[np.int64] | None = None,
        gone: NDArray[np.int64] = np.empty(0, np.int64),  # noqa: B008 - nothing changes it
    ) -> None:
        """Bring the store to what is served: what changed and is gone, or whatever differs."""
        served = serving.served
        if changed is not None:
            item_ids = changed
        elif self._stored is not None:
            item_ids, gone = difference(self._stored.served, served)
        else:
            item_ids = served.items.item_ids_N
            gone = np.setdiff1d(self.store.indexed_ids(), item_ids, assume_unique=True)
        rows = np.searchsorted(served.items.item_ids_N, item_ids)
        self.store.commit_index(
            item_ids,
            served.items.codes_NQ[rows],
            served.lists.vectors_of(item_ids),
            served.items.rows["events"].to_numpy()[rows],
            serving.state,
            gone=gone.tolist(),
        )
        self._stored = serving

    def _remove_old(self, snapshot: Snapshot) -> None:
        spared = {snapshot.version, snapshot.manifest.facts["parent"], *self._protected()}
        removed = remove_versions(self.data_dir, self.config.keep_versions, spared)
        if removed:
            log.info("old snapshots removed", versions=removed)

    def status(self) -> dict[str, Any]:
        """Counters and versions, as plain JSON values."""
        serving = self.serving
        facts = serving.base.manifest.facts if serving else {}
        return {
            "state": "serving" if serving else "waiting for the first handover",
            "version": serving.base.version if serving else None,
            "handover": serving.handover if serving else None,
            "handover_offsets": facts.get("offsets"),
            "catalogue_items": self.listing.catalogue_items,
            "indexed_items": len(serving.served.lists) if serving else 0,
            "waiting_items": len(self.listing.waiting),
            "withdrawn_items": len(self.listing.withdrawn),
            "appended_items": len(serving.served.appended_items) if serving else 0,
            "pending_handovers": len(self.pending()),
            "rebuilt_codes": len(facts.get("rebuilt_codes", [])),
            "shared_codes": facts.get("shared_codes", 0),
            "drift": facts.get("code_drift", {}).get("summary"),
            "rebuild_reasons": _counted(facts.get("reasons", {})),
            "deferred_codes": len(facts.get("deferred_codes", [])),
            "codebook_health": facts.get("codebook_health"),
            "codes": facts.get("codes", 0),
            "codes_in_use": facts.get("codes_in_use", 0),
            "last_refusal": self._last_refusal,
            "snapshots_published": self.store.snapshots_published,
            "handovers_refused": self.store.count_refused_handovers(),
            "handovers_skipped": self._skipped,
            "items_refused": self.listing.refused,
        }


def _counted(reasons: dict[str, list[str]]) -> dict[str, int]:
    """How many lists were built anew for each reason."""
    return dict(Counter(why for some in reasons.values() for why in some))
