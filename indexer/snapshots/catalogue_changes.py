"""What changed in the catalogue from one version to another; costs what changed.

Shapes: m items that may have changed, C first-level codes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from indexer.snapshots.learnt_lists import movement
from indexer.snapshots.snapshot import Snapshot
from indexer.snapshots.snapshot_facts import CatalogueChanges

Ids = NDArray[np.int64]
SHOWN = 5


def changes(before: Snapshot, after: Snapshot) -> CatalogueChanges:
    """Compare two versions, an earlier and a later one."""
    sides = (before, after)
    ids = np.unique(
        np.concatenate(
            [
                movement(before.model.items, after.model.items).ids_m,
                *(side.absent for side in sides),
                *(placed.ids_n for side in sides for placed in side.placed),
            ]
        )
    )
    codes_a, codes_b = (side.codes_of(ids)[:, 0] for side in sides)
    new, gone = (codes_a < 0) & (codes_b >= 0), (codes_a >= 0) & (codes_b < 0)
    moved = np.flatnonzero((codes_a >= 0) & (codes_b >= 0) & (codes_a != codes_b))
    old, now = codes_a[moved], codes_b[moved]
    pairs, counts = np.unique(np.stack([old, now]), axis=1, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:SHOWN]
    shown = moved[np.argsort(-after.events_of(ids[moved]), kind="stable")[:SHOWN]]
    rows = after.items.describe(ids[shown].tolist())
    return CatalogueChanges(
        items=len(after.lists) - int(new.sum()),
        new_items=int(new.sum()),
        removed_items=int(gone.sum()),
        moved_items=len(moved),
        moves=[(int(pairs[0, i]), int(pairs[1, i]), int(counts[i])) for i in order],
        examples=[
            (row["title"] or row["external_id"] or str(ids[at]), int(codes_a[at]), int(codes_b[at]))
            for at, row in zip(shown.tolist(), rows, strict=True)
        ],
    )
