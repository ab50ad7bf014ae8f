"""What a new version has to place and to show: of all that was said on `items`, what is new to it.

Shapes: n items that were listed or withdrawn since the parent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from indexer.building.placing import ListedItem
from indexer.indexing.item_store import ItemStore
from indexer.snapshots.item_table import Rows, batch_of
from indexer.snapshots.pointer import positions
from indexer.snapshots.snapshot import Snapshot
from model.tables.row_index import NO_ITEM

if TYPE_CHECKING:  # torch is needed by the model only
    from model.retrieval.retrieval_model import RetrievalModel

CHUNK = 65_536
"""Items held as objects at once."""


def everything(
    store: ItemStore, model: RetrievalModel, learnt: Mapping[int, int]
) -> tuple[list[ListedItem], Rows]:
    """For a version without a parent: items to be placed, and what is shown of all.

    Args:
        store: what is listed.
        model: of the version.
        learnt: position up to which its trainer has read `items`; empty if it does not say.
    """
    to_place: list[ListedItem] = []
    batches = []
    listed = iter(store.all_listed())
    while some := list(islice(listed, CHUNK)):
        to_place += _not_learnt(some, model, learnt)
        batches.append(_batch(some))
    batches = batches or [_batch([])]
    [whole] = pa.Table.from_batches(batches).combine_chunks().to_batches() or [batches[0]]
    return to_place, Rows.of(whole)


def what_changed(
    store: ItemStore, model: RetrievalModel, learnt: Mapping[int, int], parent: Snapshot
) -> tuple[list[ListedItem], Rows]:
    """For a version with a parent: items to be placed, and what is shown of those that changed.

    Looked at is what was said since the parent, what its model or this one had not learnt, and what
    this one has lost.
    """
    shown = positions(parent.facts.position)
    said = store.said_since(shown)
    behind = {p: min(offset, shown.get(p, 0)) for p, offset in learnt.items()}
    unlearnt = store.said_since({**shown, **behind})
    candidates = [said, unlearnt, parent.placed[0].ids_n, _lost(parent, model)]
    known = {one: store.listed(one) for one in np.unique(np.concatenate(candidates)).tolist()}
    to_place = _not_learnt([one for one in known.values() if one is not None], model, learnt)
    now = [known[one] for one in said.tolist()]
    listed = [one for one in now if one is not None]
    gone = [i for i, one in zip(said.tolist(), now, strict=True) if one is None]
    return to_place, Rows.of(_batch(listed, gone))


def _not_learnt(
    listed: Iterable[ListedItem], model: RetrievalModel, learnt: Mapping[int, int]
) -> list[ListedItem]:
    """Items that the model does not know as they are listed."""
    some = list(listed)
    rows = model.items.rows(np.array([one.item.item_id for one in some], np.int64))
    return [
        one
        for one, row in zip(some, rows.tolist(), strict=True)
        if row < 0 or (learnt and one.after(learnt))
    ]


def _lost(parent: Snapshot, model: RetrievalModel) -> NDArray[np.int64]:
    """Ids that the parent's model knew and this one does not: forgotten, or it began anew."""
    before, after = parent.model.items, model.items
    known = {id(one) for one in before.segments}
    if before.segments[0] is after.segments[0]:
        new = [one.gone_ids_g for one in after.segments if id(one) not in known]
        ids = np.concatenate([np.empty(0, np.int64), *new])
    else:
        ids = before.ids_N
    return ids[(ids != NO_ITEM) & (after.rows(ids) < 0)]


def _batch(listed: list[ListedItem], gone: list[int] | None = None) -> pa.RecordBatch:
    first_seen_n = np.array([one.first_seen for one in listed], np.int64)
    return batch_of([one.item for one in listed], first_seen_n, gone or [])
