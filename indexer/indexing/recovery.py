"""What to serve when the indexer starts: the last good version.

`current.json` is trusted if what it names is whole. A published version that it never named (the
process was killed between the directory and the pointer) is served in its place; one that it was
moved away from on purpose is not, because the store remembers having served it. Where the named
version is damaged, the newest whole one is served.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import structlog

from indexer.errors import SnapshotError
from indexer.snapshots.pointer import (
    APPENDED,
    POINTER,
    SNAPSHOTS,
    Pointer,
    read_pointer,
    snapshot_path,
    write_pointer,
)
from indexer.snapshots.snapshot import ModelLoader, Snapshot, load_version, versions
from streaming.durable_files import PARTIAL, remove_partial

log = structlog.get_logger(__name__)


def remove_leftovers(data_dir: Path) -> None:
    """Remove what a killed indexer had begun to write."""
    for directory in (SNAPSHOTS, APPENDED):
        remove_partial(data_dir / directory)
    for left in data_dir.glob(f"{PARTIAL}{POINTER}-*"):
        left.unlink(missing_ok=True)


def last_good(
    data_dir: Path,
    committed_version: int,
    now_ms: Callable[[], int],
    load_model: ModelLoader | None = None,
) -> tuple[Snapshot, Pointer] | None:
    """The version to serve, without what was appended, and the pointer to it.

    The pointer is written if it was not there, damaged, or names another version.

    Args:
        data_dir: the pipeline's directory.
        committed_version: the newest version that the store knows as served, 0 for none.
        now_ms: the clock.
        load_model: reads the weights.
    """
    pointer = None
    try:
        pointer = read_pointer(data_dir)
    except SnapshotError as error:
        log.error("pointer unusable", reason=str(error))
    named = pointer.version if pointer else 0
    found = versions(data_dir)[::-1]
    order = [v for v in found if v > max(named, committed_version)]
    order += [named] if pointer else []
    order += [v for v in found if v not in order]
    for version in order:
        digest = pointer.digest if pointer and version == named else None
        try:
            snapshot = load_version(data_dir, version, load_model, digest)
        except SnapshotError as error:
            log.error("snapshot unusable", version=version, reason=str(error))
            continue
        if pointer is None or version != named:
            log.warning("pointer set to the last good snapshot", version=version)
            pointer = pointer_to(snapshot, now_ms())
            write_pointer(data_dir, pointer)
        return snapshot, pointer
    return None


def pointer_to(snapshot: Snapshot, now_ms: int) -> Pointer:
    """A pointer to a snapshot to which nothing was appended."""
    path = snapshot_path(snapshot.version)
    return Pointer(snapshot.version, path, snapshot.manifest.digest, (), now_ms)


def without_appended(pointer: Pointer) -> Pointer:
    """The same version, as it was built."""
    return replace(pointer, appended=())
