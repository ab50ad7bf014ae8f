"""A handover becomes a version on disk, which is read back before anyone is sent to it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import structlog

from indexer.building.build import Build, build
from indexer.errors import IndexerError, SnapshotError
from indexer.indexing.config import IndexerConfig
from indexer.indexing.handover_queue import HandoverQueue
from indexer.indexing.handovers import ModelExport, handovers, load_handover
from indexer.indexing.item_store import ItemStore
from indexer.indexing.listing import Listing
from indexer.indexing.served_version import ServedVersion
from indexer.snapshots.pointer import snapshot_path
from indexer.snapshots.published import published
from indexer.snapshots.snapshot import (
    ModelLoader,
    Snapshot,
    load_snapshot,
    versions,
    write_snapshot,
)
from indexer.snapshots.snapshot_facts import SnapshotFacts

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


class VersionBuilder:
    """Makes a version of a handover and of what is listed; changes nothing that is served.

    Args:
        config: thresholds.
        store: what is known, on disk.
        data_dir: the pipeline's directory.
        handovers: those that wait.
        listing: the items announced so far.
        load_model: reads the weights of a handover.
    """

    def __init__(
        self,
        config: IndexerConfig,
        store: ItemStore,
        data_dir: Path,
        handovers: HandoverQueue,
        listing: Listing,
        load_model: ModelLoader | None,
    ) -> None:
        self._config = config
        self._store = store
        self._data_dir = data_dir
        self._handovers = handovers
        self._listing = listing
        self._load_model = load_model

    def prepare(self, number: int, served: ServedVersion | None) -> Prepared | None:
        """Make a snapshot of a handover.

        One at a time, from any thread, also while items are listed and appended in another.

        Args:
            number: of the handover.
            served: what is served meanwhile, whose lists may be shared.

        Returns:
            None if the handover was refused (the reason is on record) or has been removed
            meanwhile.

        Raises:
            IndexerError: if what was written cannot be read back.
            OSError: if the snapshot cannot be written; the handover is tried again.
        """
        position = self._store.position
        skipped = [n for n in self._handovers.pending() if n < number]
        try:
            handover = load_handover(self._data_dir, number, self._load_model)
            for share in (True, False):  # not, where a list of the parent is damaged on disk
                made = self._build(handover, served, share)
                snapshot = self._write(handover, made, position, served, share)
                if snapshot is not None:
                    return Prepared(snapshot, number, made, skipped)
        except (ValueError, OSError) as error:
            if not handovers(self._data_dir).path(number).is_dir():
                log.warning("handover was removed before it was indexed", number=number)
                return None
            if isinstance(error, OSError):
                raise
            self._handovers.refuse(number, str(error))
            return None
        raise IndexerError(f"the snapshot of handover {number} cannot be read back; see the log")

    def _build(self, handover: ModelExport, served: ServedVersion | None, share: bool) -> Build:
        listed = list(self._store.all_listed())
        learnt = handover.facts.learnt_to("items")
        changed = {one.item.item_id for one in listed if learnt and one.after(learnt)}
        return build(
            handover.model,
            listed,
            changed,
            served.base if served and share else None,
            served.geometry if served else None,
            withdrawn=self._store.withdrawn(),
            drift_threshold=self._config.drift_threshold,
            vector_tolerance=self._config.vector_tolerance,
            drift_rebuilds=self._config.drift_rebuilds,
        )

    def _write(
        self,
        handover: ModelExport,
        made: Build,
        position: dict[int, int],
        served: ServedVersion | None,
        share: bool,
    ) -> Snapshot | None:
        """Write `snapshots/<version>` and verify it; shared lists are linked from the parent.

        Returns:
            The snapshot; None, with nothing left on disk, if it is not as it was written: a file
            that was linked from the parent had been damaged there.

        Raises:
            OSError: if it cannot be written; nothing of it is then visible.
        """
        base = served.base if served else None
        taken = [0, *versions(self._data_dir), *(published(self._data_dir) or ())]
        version = self._store.reserve_version(max(taken) + 1)
        facts = SnapshotFacts.after(
            handover.facts,
            **made.facts(base, self._config.drift_threshold),
            catalogue_items=self._listing.catalogue_items,
            position={str(p): offset for p, offset in position.items()},
            version=version,
            handover=handover.number,
        )
        write_snapshot(
            self._data_dir,
            facts,
            linked=handover.files,
            lists=made.rebuild.lists,
            items=made.assignment.items,
            codes_NQ=made.assignment.codes_NQ,
            first_seen_N=made.first_seen_N,
            events_N=made.assignment.events_N,
            parent=base if share else None,
            shared=made.rebuild.shared,
        )
        directory = self._data_dir / snapshot_path(version)
        try:
            return load_snapshot(directory, lambda *_: handover.model)
        except SnapshotError as error:
            log.error("snapshot is not as it was written", version=version, reason=str(error))
            shutil.rmtree(directory)
            return None
