"""Which items are not served as they were before, so that a commit writes those and no others.

Shapes: N items of both versions, n of a part of them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from indexer.snapshots.snapshot import Snapshot

CHUNK = 65_536
"""Vectors compared at once; bounds the memory."""


def difference(before: Snapshot, after: Snapshot) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids, ascending, of the items to be written, and of those to be taken out.

    Written is what is new, or has another code, vector or event count than before.
    """
    old, new = before.items.item_ids_N, after.items.item_ids_N
    gone = np.setdiff1d(old, new, assume_unique=True)
    shapes = [(s.items.codes_NQ.shape[1], s.lists.dimension) for s in (before, after)]
    if shapes[0] != shapes[1]:
        return new, gone
    ids_N, olds_N, news_N = np.intersect1d(old, new, assume_unique=True, return_indices=True)
    same_N = (before.items.codes_NQ[olds_N] == after.items.codes_NQ[news_N]).all(axis=1)
    events = [s.items.rows["events"].to_numpy() for s in (before, after)]
    same_N &= events[0][olds_N] == events[1][news_N]
    for a in range(0, len(ids_N), CHUNK):
        ids_n = ids_N[a : a + CHUNK]
        vectors = [s.lists.vectors_of(ids_n) for s in (before, after)]
        same_N[a : a + CHUNK] &= (vectors[0] == vectors[1]).all(axis=1)
    return np.setdiff1d(new, ids_N[same_N], assume_unique=True), gone
