"""Items that evidence speaks for, whatever their code: neighbours of the history, and what is hot.

A burst lifts items of every code, and a neighbour of the history may lie in a code that the
interest head finds unlikely. Such items are few and known beforehand, so they are scored one by
one, with the user vector of their own code, beside the lists of the searched codes.

Shapes: B queries, C codes, D dimension, H hot items, M neighbours of a history, E = H + M.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from indexer.lists.code_lists import CodeLists

if TYPE_CHECKING:  # torch is needed by the model only
    from model.retrieval.retrieval_model import RetrievalModel


class Evidence:
    """The hot items of a model, with their vectors, and the neighbours of any history."""

    def __init__(self, model: RetrievalModel, lists: CodeLists, hot: int) -> None:
        self._model = model
        self._lists = lists
        positions, codes = self._located(model.hot_items(hot))
        order = np.argsort(codes, kind="stable")
        order = order[codes[order] >= 0]
        self._hot_H, self._hot_codes_H = positions[order], codes[order]
        self._hot_HD = lists.vectors_of(lists.item_ids_N[self._hot_H])
        self._by_position = np.argsort(self._hot_H)
        self._sorted_H = self._hot_H[self._by_position]

    def _located(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions and codes of items; -1 where an item is in no list."""
        codes, rows = self._lists.locate(ids)
        return np.where(codes >= 0, self._lists.starts_C[codes] + rows, -1), codes

    def positions(self, encoded: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions and codes of the evidence for each history: (B, E), -1 padded, no repeats."""
        near_BM = self._model.near_items(encoded)
        flat, codes = self._located(near_BM.ravel())
        near_BM, near_codes_BM = flat.reshape(near_BM.shape), codes.reshape(near_BM.shape)
        repeated_BM = self._is_hot(near_BM)[0]
        shape = (len(near_BM), len(self._hot_H))
        return (
            np.hstack([np.broadcast_to(self._hot_H, shape), np.where(repeated_BM, -1, near_BM)]),
            np.hstack(
                [
                    np.broadcast_to(self._hot_codes_H, shape),
                    np.where(repeated_BM, -1, near_codes_BM),
                ]
            ),
        )

    def _is_hot(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Whether positions are hot, and where among the hot items."""
        if not len(self._sorted_H):
            return np.zeros(positions.shape, bool), np.zeros(positions.shape, np.int64)
        at = np.searchsorted(self._sorted_H, positions).clip(max=len(self._sorted_H) - 1)
        return self._sorted_H[at] == positions, self._by_position[at]

    def scores(
        self,
        positions_BE: NDArray[np.int64],
        codes_BE: NDArray[np.int64],
        users_BCD: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Scores of what `positions` gave, -inf where padded.

        Args:
            positions_BE: positions.
            codes_BE: their codes.
            users_BCD: user vectors of all codes.
        """
        hot = len(self._hot_H)
        scores_BE = np.empty(positions_BE.shape, np.float32)
        bounds = np.searchsorted(self._hot_codes_H, np.arange(len(self._lists.lists) + 1))
        for code in np.unique(self._hot_codes_H).tolist():
            here = slice(bounds[code], bounds[code + 1])
            scores_BE[:, here] = users_BCD[:, code] @ self._hot_HD[here].T
        near_BM, codes_BM = positions_BE[:, hot:], codes_BE[:, hot:]
        there_BM = near_BM >= 0
        distinct, inverse = np.unique(near_BM[there_BM], return_inverse=True)
        vectors = self._lists.vectors_of(self._lists.item_ids_N[distinct])[inverse]
        query = np.nonzero(there_BM)[0]
        users = users_BCD[query, codes_BM[there_BM]]
        near_scores_BM = np.full(near_BM.shape, -np.inf, np.float32)
        near_scores_BM[there_BM] = np.einsum("nd,nd->n", users, vectors)
        scores_BE[:, hot:] = near_scores_BM
        return scores_BE

    def leave_out(
        self,
        scores_BE: NDArray[np.float32],
        positions_BE: NDArray[np.int64],
        query: NDArray[np.int64],
        position: NDArray[np.int64],
    ) -> None:
        """Set the scores of unwanted (query, position) pairs to -inf, in place."""
        hot, at = self._is_hot(position)
        scores_BE[query[hot], at[hot]] = -np.inf
        other, wanted = query[~hot], position[~hot]
        start = len(self._hot_H)
        for q, p in zip(other.tolist(), wanted.tolist(), strict=True):
            row = scores_BE[q, start:]
            row[positions_BE[q, start:] == p] = -np.inf
