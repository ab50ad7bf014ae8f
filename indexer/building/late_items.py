"""Items that were listed after the served version was built, while a newer version is not served.

The indexer appends new items to the newest version. Where an older one answers (the newest is
being judged, or a person went back), they would be missing from the answers for as long as that
lasts. So the served model embeds them itself, as the indexer does with its own: by title and
category, without popularity.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from indexer.building.assignment import embed
from indexer.errors import SnapshotError
from indexer.snapshots.item_table import ItemTable, read_items
from indexer.snapshots.pointer import Pointer
from indexer.snapshots.snapshot import ITEMS, Snapshot
from model.artifacts.manifest import ManifestError, read_manifest, sha256
from streaming.events import Item


class LateItems:
    """Adds to a served snapshot what only the newest version holds; each file is read once."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._seen: dict[int, set[str]] = {}

    def added_to(self, snapshot: Snapshot, pointer: Pointer) -> Snapshot:
        """The snapshot with the items of the pointer's version; itself where none is missing.

        Raises:
            SnapshotError: if a file of the pointer's version is missing or altered.
        """
        seen = self._seen.setdefault(snapshot.version, set())
        self._seen = {snapshot.version: seen}
        for path, digest in self._files(pointer):
            if digest in seen:
                continue
            if sha256(path) != digest:
                raise SnapshotError(f"{path}: content differs from its digest")
            model = snapshot.model
            snapshot = _with(snapshot, read_items(path, model.levels, model.first_level_codes))
            seen.add(digest)
        return snapshot

    def _files(self, pointer: Pointer) -> list[tuple[Path, str]]:
        directory = self._data_dir / pointer.path
        try:
            manifest = read_manifest(directory, "snapshot")
        except ManifestError as error:
            raise SnapshotError(str(error)) from error
        if manifest.digest != pointer.digest or ITEMS not in manifest.files:
            raise SnapshotError(f"{directory}: is another snapshot than the pointer names")
        files = [(directory / ITEMS, manifest.files[ITEMS][0])]
        return files + [(self._data_dir / one.file, one.sha256) for one in pointer.appended]


def _with(snapshot: Snapshot, table: ItemTable) -> Snapshot:
    missing_N = ~np.isin(table.item_ids_N, snapshot.items.item_ids_N)
    if not missing_N.any():
        return snapshot
    ids = table.item_ids_N[missing_N]
    rows = table.rows.filter(pa.array(missing_N))
    items = [
        Item(item_id, row["title"], row["category"], row["external_id"], row["first_seen"])
        for item_id, row in zip(ids.tolist(), rows.to_pylist(), strict=True)
    ]
    codes, vectors = embed(snapshot.model, items)
    return replace(
        snapshot,
        lists=snapshot.lists.with_items(ids, codes, vectors),
        items=snapshot.items.merged(ItemTable(ids, codes.astype(np.int16), rows)),
        appended_items=snapshot.appended_items | set(ids.tolist()),
    )
