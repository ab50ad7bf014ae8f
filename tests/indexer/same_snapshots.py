"""Two snapshots that must answer alike, however each of them was loaded."""

from __future__ import annotations

import numpy as np

from indexer.snapshots.snapshot import Snapshot


def same_lists(a: Snapshot, b: Snapshot) -> None:
    """The same items in every list, with the same vectors, where each says that they are."""
    for code, (one, other) in enumerate(zip(a.lists.lists, b.lists.lists, strict=True)):
        found = []
        for snapshot, some in ((a, one), (b, other)):
            there = np.flatnonzero(some.present_ids >= 0)
            order = there[np.argsort(some.present_ids[there])]
            ids = some.item_ids[order]
            codes, rows = snapshot.lists.locate(ids)
            assert (codes == code).all() and (rows == order).all()
            found.append((ids, some.vectors(order)))
        assert np.array_equal(found[0][0], found[1][0]), code
        assert np.array_equal(found[0][1], found[1][1]), code
    assert len(a.lists) == len(b.lists)


def same_snapshots(a: Snapshot, b: Snapshot) -> None:
    """`same_lists`, and the same is said of every item."""
    same_lists(a, b)
    assert a.manifest == b.manifest and a.appended == b.appended
    ids = np.unique(np.concatenate([a.lists.item_ids_N, b.lists.item_ids_N]))
    assert a.describe(ids.tolist()) == b.describe(ids.tolist())
    assert a.appended_items == b.appended_items
    assert np.array_equal(a.absent, b.absent) and len(a.items) == len(b.items)
    assert np.array_equal(a.items.item_ids_N, b.items.item_ids_N)
