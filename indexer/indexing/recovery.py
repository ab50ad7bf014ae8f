"""What to serve when the indexer starts: the last good version.

That is the newest one that is whole. `current.json` names it, but where the process was killed
between the directory of a version and the pointer to it, or where the named one was damaged since.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import structlog

from indexer.errors import SnapshotError
from indexer.indexing.served_version import ServedVersion
from indexer.snapshots.pointer import (
    APPENDED,
    POINTER,
    SNAPSHOTS,
    Pointer,
    read_pointer,
    snapshot_path,
    write_pointer,
)
from indexer.snapshots.snapshot import Snapshot
from indexer.snapshots.snapshot_reading import ModelLoader, load_version, versions
from model.artifacts.verified_files import VerifiedFiles
from streaming.durable_files import PARTIAL, remove_partial

log = structlog.get_logger(__name__)


def remove_leftovers(data_dir: Path) -> None:
    """Remove what a killed indexer had begun to write, and what only older versions read."""
    for directory in (SNAPSHOTS, APPENDED):
        remove_partial(data_dir / directory)
    for former in (data_dir / APPENDED).glob("*.parquet"):
        former.unlink(missing_ok=True)
    for left in data_dir.glob(f"{PARTIAL}{POINTER}-*"):
        left.unlink(missing_ok=True)


def last_good(
    data_dir: Path,
    now_ms: Callable[[], int],
    load_model: ModelLoader | None = None,
    verified: VerifiedFiles | None = None,
) -> ServedVersion | None:
    """The newest version that is whole, with what was appended to it; None where there is none.

    The pointer is written if it was not there, damaged, or names another version.

    Args:
        data_dir: the pipeline's directory.
        now_ms: the clock.
        load_model: reads the weights.
        verified: the files that this process has verified.
    """
    pointer = None
    try:
        pointer = read_pointer(data_dir)
    except SnapshotError as error:
        log.error("pointer unusable", reason=str(error))
    for version in versions(data_dir)[::-1]:
        named = pointer if pointer and pointer.version == version else None
        try:
            digest = named.digest if named else None
            snapshot = load_version(data_dir, version, load_model, digest, verified=verified)
        except SnapshotError as error:
            log.error("snapshot unusable", version=version, reason=str(error))
            continue
        if named is not None:
            try:
                return ServedVersion.of(data_dir, snapshot, named)
            except SnapshotError as error:  # its items count as waiting and are appended anew
                log.error("appended items unusable", reason=str(error))
        fresh = pointer_to(snapshot, now_ms())
        write_pointer(data_dir, fresh)
        log.warning("pointer set to the last good snapshot", version=version)
        return ServedVersion.of(data_dir, snapshot, fresh)
    return None


def pointer_to(snapshot: Snapshot, now_ms: int) -> Pointer:
    """A pointer to a snapshot to which nothing was appended."""
    path = snapshot_path(snapshot.version)
    return Pointer(snapshot.version, path, snapshot.manifest.digest, (), now_ms)
