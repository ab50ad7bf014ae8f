"""Many queries of a small catalogue, scored at once: one matrix for all of them and all rows.

Alone a query costs the calls that choose cells and score their rows more than the arithmetic. So
all rows of all codes are multiplied with the user vectors of many queries, which is quicker while
there are not too many rows; the same rows may answer as for each of them alone
(`indexer.search.query_scores`), with the same scores but for rounding.

Shapes: B queries, T rows of all lists, U codes with user vectors, C codes, M cells, D dimension, P
features of the recency prior, k answers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from indexer.search.cell_choice import CellChoice
from indexer.search.code_choice import EncodedQueries
from indexer.search.evidence import HotItems
from indexer.search.selection import Selection

if TYPE_CHECKING:  # the lists alone need no torch
    from torch import Tensor

MOST_ROWS = 32_768
"""Rows of the lists up to which all are scored."""


class WholeScores:
    """Scores all rows of the lists; safe to share by threads.

    Args:
        cells: of the lists of one version.
        hot: items that may answer whatever their code.
        evidence: whether they and neighbours of the history may.
        most: how many of what may answer may be scored for a query; None: no bound.
    """

    def __init__(
        self,
        cells: CellChoice,
        hot: HotItems,
        evidence: bool,
        most: Callable[[Selection | None], int] | None,
    ) -> None:
        self._lists, self._cells, self._prior, self._hot = cells.lists, cells, cells.prior, hot
        self._evidence, self._most = evidence, most
        self._rows = int(cells.lists.lengths_C.sum())

    def suits(self, queries: int) -> bool:
        """Whether it is quicker for so many queries than one of them after the other."""
        return queries > 1 and 0 < self._rows <= MOST_ROWS

    @cached_property
    def _vectors_TD(self) -> Tensor:
        import torch

        return torch.from_numpy(self._lists.vectors_at(np.arange(self._rows)))

    @cached_property
    def _features_TP(self) -> Tensor:
        import torch

        return torch.from_numpy(self._prior.features(np.arange(self._rows)))

    def best(
        self, encoded: EncodedQueries
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
        """The best candidates of each query, best first, and how many were scored.

        Scores and positions are (B, k), or as many as there are rows; -inf where one must not be
        answered.
        """
        import torch

        weights_BP, users_BUD = (
            torch.from_numpy(np.ascontiguousarray(x))
            for x in (encoded.weights_BP, encoded.users_BUD)
        )
        scores_BT = weights_BP @ self._features_TP.T
        starts, lengths = self._lists.starts_C, self._lists.lengths_C
        for column, code in enumerate(encoded.codes_U.tolist()):
            rows = slice(int(starts[code]), int(starts[code] + lengths[code]))
            scores_BT[:, rows].addmm_(users_BUD[:, column], self._vectors_TD[rows].T)
        queries_n, at_n = np.nonzero(encoded.near.positions_BM >= 0)
        near = queries_n, encoded.near.positions_BM[queries_n, at_n]
        scores_BT.numpy()[near] += encoded.near.adds_BM[queries_n, at_n]
        may_BT = self._cells_of_all(encoded, np.bincount(queries_n, minlength=len(scores_BT)))
        if self._evidence:
            may_BT[near] = True
            may_BT[:, self._hot.among(encoded.queries.only)] = True
        scored_B = may_BT.sum(axis=1)
        may_BT &= self._lists.item_ids_N >= 0
        may_BT[encoded.excluded.query, encoded.excluded.position] = False
        scores_BT.masked_fill_(torch.from_numpy(~may_BT), -np.inf)
        scores, positions = torch.topk(scores_BT, min(encoded.queries.k, self._rows))
        return scores.numpy(), positions.numpy(), scored_B

    def _cells_of_all(
        self, encoded: EncodedQueries, near_B: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Which rows of the searched lists are scored for each query: (B, T)."""
        searched_BC = np.zeros((len(near_B), len(self._lists.lists) + 1), np.bool_)
        np.put_along_axis(searched_BC, encoded.searched_BS, True, axis=1)  # the last for none
        searched_BC = searched_BC[:, :-1]
        only = encoded.queries.only
        if self._most is None:
            rows_BT = np.repeat(searched_BC, self._lists.lengths_C, axis=1)
            return rows_BT if only is None else rows_BT & only.mask_N
        most_B = np.full(len(near_B), self._most(only))
        if self._evidence and (only is None or only.dense):
            most_B -= len(self._hot.among(only)) + near_B
        unwanted_B = np.bincount(encoded.excluded.query, minlength=len(near_B))
        wanted_B = encoded.queries.k + unwanted_B
        return self._cells.of_many(searched_BC, encoded, most_B, wanted_B, only)
