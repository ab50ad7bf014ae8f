"""Items that were listed after the served version was built, while a newer version is not served.

The indexer appends new items to the newest version. Where an older one answers (the newest is
being judged, or a person went back), they would be missing from the answers for as long as that
lasts. So the served model embeds them itself, as the indexer does with its own: by title and
category, without popularity. So it does with those that were listed anew as something else.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np

from indexer.building.placing import ListedItem, place
from indexer.errors import SnapshotError
from indexer.snapshots.item_table import Rows
from indexer.snapshots.pointer import Pointer
from indexer.snapshots.snapshot import Snapshot
from indexer.snapshots.snapshot_facts import CATALOGUE
from indexer.snapshots.snapshot_reading import facts_of
from model.artifacts.chain import Chain
from model.artifacts.manifest import ManifestError, read_manifest
from model.artifacts.verified_files import VerifiedFiles
from streaming.items import Item

MOST = 32
"""Files whose items lie one behind the other; what is asked of an item is looked up in each."""


class LateItems:
    """Adds to a served snapshot what only the newest version holds; each file is read once."""

    def __init__(self, data_dir: Path, verified: VerifiedFiles | None = None) -> None:
        self._data_dir = data_dir
        self._verified = verified or VerifiedFiles()
        self._last: Callable[[], Snapshot | None] = lambda: None
        self._seen: set[str] = set()  # digests of the files whose items `_last` has

    def added_to(self, snapshot: Snapshot, pointer: Pointer) -> Snapshot:
        """The snapshot with the items of the pointer's version; itself where none is missing.

        Raises:
            SnapshotError: if a file of the pointer's version is missing or altered.
        """
        seen = {snapshot.manifest.files[name][0] for name in snapshot.facts.catalogue}
        if snapshot is self._last():
            seen = set(self._seen)
        newer = pointer.version > snapshot.version
        for path, digest in self._files(pointer):
            if digest in seen:
                continue
            try:
                if self._verified.digest(path) != digest:
                    raise SnapshotError(f"{path}: content differs from its digest")
            except OSError as error:
                raise SnapshotError(f"{path}: {error.strerror}") from error
            snapshot = _with(snapshot, Rows.read(path), newer)
            seen.add(digest)
        if len(snapshot.placed) > MOST:
            snapshot = snapshot.packed()
        # Together, once all are read: these files, and no others, are in this one, and no other.
        self._last, self._seen = weakref.ref(snapshot), seen
        return snapshot

    def _files(self, pointer: Pointer) -> list[tuple[Path, str]]:
        directory = self._data_dir / pointer.path
        try:
            manifest = read_manifest(directory, "snapshot")
        except ManifestError as error:
            raise SnapshotError(str(error)) from error
        if manifest.digest != pointer.digest:
            raise SnapshotError(f"{directory}: is another snapshot than the pointer names")
        facts_of(directory, manifest)
        try:
            chain = Chain.of(directory, manifest, CATALOGUE)
        except ManifestError as error:
            raise SnapshotError(str(error)) from error
        files = [(directory / name, chain.digests[name]) for name in chain.names]
        return files + [(self._data_dir / one.file, one.sha256) for one in pointer.appended]


def _with(snapshot: Snapshot, rows: Rows, newer: bool) -> Snapshot:
    """The snapshot with the items that it lacks and, of a newer version, those that differ.

    What a newer version has withdrawn goes: an earlier file of it may just have brought it.
    """
    if newer:
        snapshot = snapshot.without(rows.ids_n[~rows.listed_n])
    missing = rows.listed_n & (snapshot.lists.locate(rows.ids_n)[0] < 0)
    if newer:
        missing |= snapshot.items.differing(rows)
    if not missing.any():
        return snapshot
    told = rows.batch.take(np.flatnonzero(missing)).to_pylist()
    listed = [
        ListedItem(
            Item(
                row["item_id"],
                row["title"],
                row["category"],
                row["external_id"],
                row["first_seen"],
            ),
            row["first_seen"],
            0,
            0,
        )
        for row in told
    ]
    return snapshot.with_placed(place(snapshot.model, listed))
