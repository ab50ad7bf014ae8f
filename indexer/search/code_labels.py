"""What codes are called: what the clicked items of each have in common."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from indexer.snapshots.snapshot import Snapshot

LABELLING = 32_768
"""Items that codes are named after: the most clicked."""


def code_labels(snapshot: Snapshot) -> dict[int, str]:
    """A name for each first-level code that holds items.

    The category with most clicks among its items (its last part, where it is a path); without
    categories the title of the most clicked item. The `LABELLING` most clicked items are looked at.
    """
    ids = most_clicked(snapshot, LABELLING)
    codes, weights = snapshot.lists.locate(ids)[0], snapshot.events_of(ids) + 1.0
    rows = snapshot.items.shown(ids.tolist())
    categories, at = np.unique([row["category"] for row in rows] or [""], return_inverse=True)
    labels = {}
    for code in np.unique(codes[codes >= 0]).tolist():
        mine = np.flatnonzero(codes == code)
        totals = np.bincount(at[mine], weights[mine], len(categories))
        best = str(categories[int(totals.argmax())]).split(" > ")[-1].strip()
        if not best:
            first = int(mine[weights[mine].argmax()])
            best = rows[first]["title"] or rows[first]["external_id"] or str(ids[first])
        labels[code] = best if len(best) <= 60 else f"{best[:58]}…"
    return labels


def most_clicked(snapshot: Snapshot, count: int) -> NDArray[np.int64]:
    """Ids of the items of most events, and of those that the indexer has placed."""
    items = snapshot.model.items
    rows = items.item_rows
    if len(rows) > count:
        rows = rows[np.argpartition(-items.events_N[rows], count)[:count]]
    placed = [one.ids_n for one in snapshot.placed]
    return np.unique(np.concatenate([items.ids_N[rows], *placed]))
