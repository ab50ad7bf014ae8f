"""A handover becomes a version on disk, which is read back before anyone is sent to it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from indexer.building.build import Build, build
from indexer.building.placing import place
from indexer.errors import IndexerError, SnapshotError
from indexer.indexing.config import IndexerConfig
from indexer.indexing.handover_queue import HandoverQueue
from indexer.indexing.handovers import ModelExport, handovers, load_handover
from indexer.indexing.item_store import ItemStore
from indexer.indexing.listing import Listing
from indexer.indexing.said_since import everything, what_changed
from indexer.indexing.scrub import Scrub
from indexer.indexing.served_version import ServedVersion
from indexer.indexing.version_record import VersionRecord
from indexer.snapshots.catalogue_changes import changes
from indexer.snapshots.item_table import Rows
from indexer.snapshots.pointer import snapshot_path
from indexer.snapshots.published import published
from indexer.snapshots.snapshot import Snapshot
from indexer.snapshots.snapshot_facts import SnapshotFacts
from indexer.snapshots.snapshot_reading import ModelLoader, load_snapshot, versions
from indexer.snapshots.snapshot_writing import Contents, write_snapshot
from model.artifacts.verified_files import VerifiedFiles

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Prepared:
    """A version that lies on disk and that nobody is served yet.

    Attributes:
        snapshot: as it was read back.
        handover: number of what it was made of.
        made: what was written anew, and why.
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
        verified: the files that this process has verified.
    """

    def __init__(
        self,
        config: IndexerConfig,
        store: ItemStore,
        data_dir: Path,
        handovers: HandoverQueue,
        listing: Listing,
        load_model: ModelLoader | None,
        verified: VerifiedFiles,
    ) -> None:
        self._config = config
        self._store = store
        self._data_dir = data_dir
        self._handovers = handovers
        self._listing = listing
        self._load_model = load_model
        self._verified = verified
        self._scrub = Scrub()

    def prepare(self, number: int, served: ServedVersion | None) -> Prepared | None:
        """Make a snapshot of a handover.

        One at a time, from any thread, also while items are listed and appended in another.

        Args:
            number: of the handover.
            served: what is served meanwhile, whose files may be shared.

        Returns:
            None if the handover was refused (the reason is on record) or has been removed
            meanwhile.

        Raises:
            IndexerError: if what was written cannot be read back.
            OSError: if the snapshot cannot be written; the handover is tried again.
        """
        position = self._store.position
        skipped = [n for n in self._handovers.pending() if n < number]
        base = served.base if served is not None else None
        sound = base
        if base is not None and (damaged := self._scrub.damaged(base.path, base.manifest)):
            log.error("damaged on disk: nothing is shared with it", file=str(base.path / damaged))
            sound, self._verified = None, VerifiedFiles()
        try:
            handover = load_handover(
                self._data_dir, number, self._load_model, sound, self._verified
            )
            # without a parent, where one of its files is damaged on disk
            for parent in [sound, None] if sound is not None else [None]:
                made, listed = self._build(handover, parent)
                snapshot = self._write(handover, made, listed, position, base, parent)
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

    def _build(self, handover: ModelExport, parent: Snapshot | None) -> tuple[Build, Rows]:
        learnt = handover.facts.learnt_to("items")
        if parent is None:
            to_place, listed = everything(self._store, handover.model, learnt)
        else:
            to_place, listed = what_changed(self._store, handover.model, learnt, parent)
        made = build(
            handover.model,
            place(handover.model, to_place),
            parent,
            withdrawn=self._store.withdrawn(),
            drift_threshold=self._config.drift_threshold,
            rebuild_rows=self._config.rebuild_rows,
        )
        return made, listed

    def _write(
        self,
        handover: ModelExport,
        made: Build,
        listed: Rows,
        position: dict[int, int],
        before: Snapshot | None,
        parent: Snapshot | None,
    ) -> Snapshot | None:
        """Write `snapshots/<version>` and verify it; what is shared is linked from the parent.

        `before` is served meanwhile, also where the version shares nothing with it.

        Returns:
            The snapshot; None, with nothing left on disk, if it is not as it was written: a file
            that was linked from the parent had been damaged there.

        Raises:
            OSError: if it cannot be written; nothing of it is then visible.
        """
        taken = [0, *versions(self._data_dir), *(published(self._data_dir) or ())]
        version = VersionRecord(self._store).reserve_version(max(taken) + 1)
        more: dict[str, Any] = made.facts(before, self._config.drift_threshold)
        if parent is not None:
            table = parent.catalogue.with_rows(listed)
            more["changes"] = changes(parent, made.snapshot(version, table)).model_dump()
        facts = SnapshotFacts.after(
            handover.facts,
            **more,
            catalogue_items=self._listing.catalogue_items,
            position={str(p): offset for p, offset in position.items()},
            version=version,
            handover=handover.number,
        )
        contents = Contents(
            handover.files,
            made.rebuild.lists,
            made.rebuild.reasons,
            made.absent,
            made.placed,
            listed,
        )
        write_snapshot(self._data_dir, facts, contents, parent)
        directory = self._data_dir / snapshot_path(version)
        try:
            return load_snapshot(
                directory,
                lambda *_: handover.model,
                held=parent,
                verified=self._verified,
            )
        except SnapshotError as error:
            log.error("snapshot is not as it was written", version=version, reason=str(error))
            shutil.rmtree(directory)
            return None
