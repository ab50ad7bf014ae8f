"""What readers are served now: a snapshot, what was appended to it, and the pointer to both."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexer.snapshots.placed_items import PlacedItems
from indexer.snapshots.pointer import Pointer, positions, write_pointer
from indexer.snapshots.snapshot import Snapshot
from indexer.snapshots.snapshot_reading import load_appended
from indexer.snapshots.snapshot_writing import write_appended


@dataclass(frozen=True)
class ServedVersion:
    """One state of what is served; a change makes another.

    Attributes:
        base: the snapshot as it is on disk, whose lists the next version may share.
        snapshot: what readers load: the same with the appended items, without withdrawn ones.
        pointer: what `current.json` says.
    """

    base: Snapshot
    snapshot: Snapshot
    pointer: Pointer

    @classmethod
    def of(cls, data_dir: Path, base: Snapshot, pointer: Pointer) -> ServedVersion:
        """A snapshot with what the pointer says was appended to it.

        Raises:
            SnapshotError: if an appended file is damaged.
        """
        return cls(base, load_appended(data_dir, pointer, base), pointer)

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
        placed: PlacedItems,
        position: dict[int, int],
        now_ms: int,
        *,
        merged: bool,
    ) -> ServedVersion:
        """Write a file of items and point to it; readers find them from then on.

        With `merged` the file takes the place of those appended before, and must hold their items.
        What was withdrawn from the snapshot is then in it again where the base has it.

        Raises:
            OSError: if it cannot be written; the pointer is then as before.
        """
        before = self.pointer.appended
        number = max((one.number for one in before), default=0) + 1
        appended = write_appended(data_dir, self.base.version, number, position, placed)
        files = (appended,) if merged else (*before, appended)
        pointer = replace(self.pointer, appended=files, published_at=now_ms)
        snapshot = load_appended(data_dir, pointer, self.base if merged else self.snapshot)
        write_pointer(data_dir, pointer)
        return replace(self, snapshot=snapshot, pointer=pointer)
