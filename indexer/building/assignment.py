"""Which code and which vector every item has under a model.

Shapes: N items, Q levels of codes, D dimension.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from indexer.errors import IndexerError
from streaming.events import Item

if TYPE_CHECKING:  # torch is needed by the model only
    from model.retrieval.retrieval_model import RetrievalModel

CHUNK = 4096
"""Items embedded at once by the content path."""


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


@dataclass(frozen=True)
class Assignment:
    """Items with their codes and vectors, ascending by id.

    Attributes:
        items: N items; one that only the model knows has empty features.
        codes_NQ: int64.
        vectors_ND: float32, ready for inner products.
        events_N: int64 events the model has seen of each item; 0 where it does not say.
    """

    items: list[Item]
    codes_NQ: NDArray[np.int64]
    vectors_ND: NDArray[np.float32]
    events_N: NDArray[np.int64]

    @property
    def item_ids_N(self) -> NDArray[np.int64]:
        """Ids, ascending."""
        return np.fromiter((i.item_id for i in self.items), np.int64, len(self.items))


def assign(
    model: RetrievalModel,
    items: Sequence[Item],
    changed: Collection[int] = (),
    withdrawn: Collection[int] = (),
) -> Assignment:
    """Codes and vectors of `items` and of what else the model knows and was not `withdrawn`.

    An item of the model's catalogue has the row that was learnt for it, unless it is in
    `changed` (listed again with other features since); every other item is embedded by content.

    Raises:
        IndexerError: for vectors that are not finite, codes out of range, or shapes that do not
            fit the model: such a model must not be served.
    """
    row_of = {int(i): row for row, i in enumerate(model.item_ids_N)}
    if len(row_of) != len(model.item_ids_N):
        raise IndexerError("the model's catalogue holds an item twice")
    listed = {item.item_id: item for item in items}
    there = (row_of.keys() | listed.keys()) - set(withdrawn)
    everything = [listed[i] if i in listed else Item(i) for i in sorted(there)]
    learnt = [i.item_id in row_of and i.item_id not in changed for i in everything]
    rows = [row_of[i.item_id] for i, known in zip(everything, learnt, strict=True) if known]
    codes_NQ = np.empty((len(everything), model.levels), np.int64)
    vectors_ND = np.empty((len(everything), model.dimension), np.float32)
    known_N = np.array(learnt, bool)
    codes_NQ[known_N], vectors_ND[known_N] = model.codes_NQ[rows], model.vectors_ND[rows]
    codes_NQ[~known_N], vectors_ND[~known_N] = embed(
        model, [i for i, known in zip(everything, learnt, strict=True) if not known]
    )
    events_N = np.zeros(len(everything), np.int64)
    seen = getattr(model, "item_events_N", None)
    if seen is not None:
        events_N[known_N] = np.asarray(seen)[rows]
    _check(model, everything, codes_NQ, vectors_ND)
    return Assignment(everything, codes_NQ, vectors_ND, events_N)


def embed(
    model: RetrievalModel, items: Sequence[Item]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Codes (n, Q) and vectors (n, D) of any items, by their content.

    Raises:
        IndexerError: as `assign`.
    """
    codes_nQ = np.empty((len(items), model.levels), np.int64)
    vectors_nD = np.empty((len(items), model.dimension), np.float32)
    for a in range(0, len(items), CHUNK):
        vectors_nD[a : a + CHUNK], codes_nQ[a : a + CHUNK] = model.embed(items[a : a + CHUNK])
    _check(model, items, codes_nQ, vectors_nD)
    return codes_nQ, vectors_nD


def _check(
    model: RetrievalModel,
    items: Sequence[Item],
    codes_NQ: NDArray[np.int64],
    vectors_ND: NDArray[np.float32],
) -> None:
    strange_N = ~np.isfinite(vectors_ND).all(axis=1)
    if strange_N.any():
        raise IndexerError(
            f"the model gives item {items[int(strange_N.argmax())].item_id} a vector that is not "
            "finite"
        )
    strange_N = (codes_NQ[:, 0] < 0) | (codes_NQ[:, 0] >= model.first_level_codes)
    strange_N |= (codes_NQ < 0).any(axis=1) | (codes_NQ > np.iinfo(np.int16).max).any(axis=1)
    if strange_N.any():
        item = items[int(strange_N.argmax())].item_id
        raise IndexerError(f"the model gives item {item} a code out of range")
