"""Items that the model has not learnt, or not as they are listed: the indexer places them.

Shapes: n items, Q levels of codes, D dimension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from indexer.errors import IndexerError
from indexer.snapshots.placed_items import PlacedItems
from streaming.items import Item

if TYPE_CHECKING:  # torch is needed by the model only
    from model.retrieval.retrieval_model import RetrievalModel

CHUNK = 4096
"""Items placed at once by the content path."""


@dataclass(frozen=True)
class ListedItem:
    """An item as last announced on `items`, and where that record stands.

    `first_seen` (ms) is when the item was first listed.
    """

    item: Item
    first_seen: int
    partition: int
    offset: int

    def after(self, position: Mapping[int, int]) -> bool:
        """Whether the record is not yet covered by `position` (partition -> next offset)."""
        return self.offset >= position.get(self.partition, 0)


def place(model: RetrievalModel, listed: Sequence[ListedItem]) -> PlacedItems:
    """Items where their title and category put them; an item's own part of z, if learnt, stays.

    Raises:
        IndexerError: for vectors that are not finite or codes out of range: such a model must not
            be served.
    """
    items = [one.item for one in listed]
    codes_nQ = np.empty((len(items), model.levels), np.int64)
    vectors_nD = np.empty((len(items), model.dimension), np.float32)
    for a in range(0, len(items), CHUNK):
        vectors_nD[a : a + CHUNK], codes_nQ[a : a + CHUNK] = model.embed(items[a : a + CHUNK])
    strange_n = ~np.isfinite(vectors_nD).all(axis=1)
    if strange_n.any():
        raise IndexerError(
            f"the model gives item {items[int(strange_n.argmax())].item_id} a vector that is not "
            "finite"
        )
    check_codes(model, np.array([one.item_id for one in items], np.int64), codes_nQ)
    first_seen_n = np.array([one.first_seen for one in listed], np.int64)
    return PlacedItems.made(items, first_seen_n, codes_nQ, vectors_nD)


def check_codes(
    model: RetrievalModel, ids_n: NDArray[np.int64], codes_nQ: NDArray[np.integer]
) -> None:
    """Refuse codes that the model's codebooks do not have.

    Raises:
        IndexerError: naming an item that has one.
    """
    strange_n = (codes_nQ < 0).any(axis=1) | (codes_nQ > np.iinfo(np.int16).max).any(axis=1)
    strange_n |= codes_nQ[:, 0] >= model.first_level_codes
    if strange_n.any():
        raise IndexerError(
            f"the model gives item {ids_n[int(strange_n.argmax())]} a code out of range"
        )
