"""What readers are served now: a snapshot, what was appended to it, and the pointer to both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexer.building.assignment import ListedItem
from indexer.building.drift import Geometry
from indexer.snapshots.pointer import Pointer, positions, write_pointer
from indexer.snapshots.snapshot import Snapshot, load_appended, write_appended


@dataclass(frozen=True)
class ServedVersion:
    """One state of what is served; a change makes another.

    Attributes:
        base: the snapshot as it is on disk, whose lists the next version may share.
        snapshot: what readers load: the same with the appended items, without withdrawn ones.
        pointer: what `current.json` says.
        geometry: where the codes lie, to measure drift from.
    """

    base: Snapshot
    snapshot: Snapshot
    pointer: Pointer
    geometry: Geometry

    @classmethod
    def of(cls, data_dir: Path, base: Snapshot, pointer: Pointer) -> ServedVersion:
        """A snapshot with what the pointer says was appended to it.

        Raises:
            SnapshotError: if an appended file is damaged.
        """
        model = base.model
        codes_N = model.codes_NQ[:, 0].astype(np.int64)
        geometry = Geometry.measure(model.centroids_CD, model.quantizer_space(None), codes_N)
        return cls(base, load_appended(data_dir, pointer, base), pointer, geometry)

    @property
    def handover(self) -> int:
        """The handover that the snapshot was made of."""
        return self.base.facts.handover

    @property
    def covered(self) -> dict[int, int]:
        """Partition -> next offset of `items` that is not yet served."""
        if self.pointer.appended:
            return self.pointer.appended[-1].position
        return positions(self.base.facts.position)

    def without(self, item_ids: NDArray[np.int64]) -> ServedVersion:
        """The same without withdrawn items; itself where it serves none of them."""
        left = self.snapshot.without(item_ids)
        return self if left is self.snapshot else replace(self, snapshot=left)

    def append(
        self,
        data_dir: Path,
        listed: Sequence[ListedItem],
        codes_nQ: NDArray[np.int64],
        vectors_nD: NDArray[np.float32],
        position: dict[int, int],
        now_ms: int,
        *,
        merged: bool,
    ) -> ServedVersion:
        """Write a file of items and point to it; readers find them from then on.

        With `merged` the file takes the place of those appended before, and must hold their items.

        Raises:
            OSError: if it cannot be written; the pointer is then as before.
        """
        before = self.pointer.appended
        appended = write_appended(
            data_dir,
            self.base.version,
            max((one.number for one in before), default=0) + 1,
            position,
            items=[one.item for one in listed],
            codes_nQ=codes_nQ,
            vectors_nD=vectors_nD,
            first_seen_n=np.array([one.first_seen for one in listed], np.int64),
            events_n=np.zeros(len(listed), np.int64),
        )
        files = (appended,) if merged else (*before, appended)
        pointer = replace(self.pointer, appended=files, published_at=now_ms)
        snapshot = load_appended(data_dir, pointer, self.snapshot)
        write_pointer(data_dir, pointer)
        return replace(self, snapshot=snapshot, pointer=pointer)
