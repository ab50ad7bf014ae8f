"""Items that evidence speaks for, whatever their code: neighbours of the history, and what is hot.

A burst lifts items of every code, and a neighbour of the history may lie in a code that the
interest head finds unlikely. Such items are few and known beforehand, so they are scored one by
one, with the user vector of their own code. What a neighbour adds to the score of its item is said
of this item alone, so a neighbour is scored so also where its list is searched.

Shapes: B queries, M neighbours of a history, D dimension, H hot items, n distinct neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from indexer.lists.code_lists import CodeLists
from indexer.search.selection import Selection

if TYPE_CHECKING:  # torch is needed by the model only
    from model.retrieval.retrieval_model import RetrievalModel

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]


class HotItems:
    """The items of the greatest recency prior that are in the lists.

    Attributes:
        positions_H: int64, ascending.
        codes_H: their first-level codes.
        vectors_HD: float32.
        codes: the distinct ones of `codes_H`.
    """

    def __init__(self, model: RetrievalModel, lists: CodeLists, count: int) -> None:
        positions, codes = lists.positions_of(model.hot_items(count))
        order = np.argsort(positions, kind="stable")
        order = order[codes[order] >= 0]
        self.positions_H, self.codes_H = positions[order], codes[order]
        self.vectors_HD = lists.vectors_at(self.positions_H)
        self.codes = np.unique(self.codes_H)

    def __len__(self) -> int:
        return len(self.positions_H)

    def among(self, only: Selection | None) -> Ids:
        """Positions of those that may answer."""
        return self.positions_H if only is None else self.positions_H[only.has(self.positions_H)]


@dataclass(frozen=True)
class Near:
    """Neighbours of B histories that are in the lists.

    Attributes:
        positions_BM: int64, -1 where there is none.
        codes_BM: first-level codes, -1 where there is none.
        adds_BM: float32, what the history adds to their scores.
        vectors_nD: of all of them, each once.
        at_BM: where in `vectors_nD` each is; anywhere where there is none.
    """

    positions_BM: Ids
    codes_BM: Ids
    adds_BM: Floats
    vectors_nD: Floats
    at_BM: Ids

    @classmethod
    def of(
        cls,
        model: RetrievalModel,
        lists: CodeLists,
        encoded: Any,
        only: Selection | None = None,
    ) -> Near:
        """Those of encoded histories that may answer."""
        ids_BM, adds_BM = model.near(encoded)
        positions, codes = lists.positions_of(ids_BM.ravel())
        if only is not None:
            out = ~only.has(positions)
            positions[out] = codes[out] = -1
        there = positions >= 0
        distinct, at = np.unique(positions[there], return_inverse=True)
        at_n = np.zeros(len(positions), np.int64)
        at_n[there] = at
        shape = ids_BM.shape
        return cls(
            positions.reshape(shape),
            codes.reshape(shape),
            adds_BM,
            lists.vectors_at(distinct),
            at_n.reshape(shape),
        )

    def of_query(self, b: int) -> tuple[Ids, Ids, Floats, Floats]:
        """Positions, ascending, codes, vectors and additions of one query's neighbours."""
        order = np.argsort(self.positions_BM[b], kind="stable")
        order = order[np.count_nonzero(self.positions_BM[b] < 0) :]
        return (
            self.positions_BM[b, order],
            self.codes_BM[b, order],
            self.vectors_nD[self.at_BM[b, order]],
            self.adds_BM[b, order],
        )
