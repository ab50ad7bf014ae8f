"""A worked-out version becomes a directory, and is read back before anyone is sent to it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import structlog

from indexer.building.build import Build
from indexer.errors import SnapshotError
from indexer.indexing.handovers import ModelExport
from indexer.snapshots.pointer import snapshot_path
from indexer.snapshots.snapshot import Snapshot, load_snapshot, write_snapshot

log = structlog.get_logger(__name__)


def write_version(
    data_dir: Path,
    version: int,
    handover: ModelExport,
    made: Build,
    facts: dict[str, Any],
    parent: Snapshot | None,
) -> Snapshot | None:
    """Write `snapshots/<version>` and verify it; shared lists are linked from `parent`.

    Returns:
        The snapshot; None, with nothing left on disk, if it is not as it was written: a file that
        was linked from the parent had been damaged there.

    Raises:
        OSError: if it cannot be written; nothing of it is then visible.
    """
    write_snapshot(
        data_dir,
        version,
        {**handover.manifest.facts, **facts, "version": version, "handover": handover.number},
        weights=handover.weights,
        lists=made.rebuild.lists,
        items=made.assignment.items,
        codes_NQ=made.assignment.codes_NQ,
        first_seen_N=made.first_seen_N,
        events_N=made.assignment.events_N,
        parent=parent,
        shared=made.rebuild.shared,
    )
    directory = data_dir / snapshot_path(version)
    try:
        return load_snapshot(directory, lambda *_: handover.model)
    except SnapshotError as error:
        log.error("snapshot is not as it was written", version=version, reason=str(error))
        shutil.rmtree(directory)
        return None
