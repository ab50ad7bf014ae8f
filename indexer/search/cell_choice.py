"""Which rows of the searched lists are scored: all of them, or the best cells, as far as it goes.

A cell's estimate is what its items score on the mean: the user vector of its code by the mean of
its vectors, and the prior's mean. All cells of the searched codes are ranked together, and the best
are taken until the query has cost what it may; more only where they hold too little to answer from.

Shapes: M cells of all lists, S searched codes, R runs of rows, B queries, T rows of all lists, C
codes, D dimension, P features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from indexer.lists.code_lists import CodeLists
from indexer.search.prior import RecencyPrior
from indexer.search.selection import Selection

if TYPE_CHECKING:
    from indexer.search.code_choice import EncodedQueries

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]


class Runs(NamedTuple):
    """Rows side by side in one block of one list, ascending: first position, one past the last."""

    firsts_R: Ids
    lasts_R: Ids
    codes_R: Ids

    def positions(self) -> Ids:
        """All of them, ascending."""
        sizes_R = self.lasts_R - self.firsts_R
        ends_R = np.cumsum(sizes_R)
        total = int(ends_R[-1]) if len(ends_R) else 0
        return np.repeat(self.firsts_R - (ends_R - sizes_R), sizes_R) + np.arange(total)


class CellChoice:
    """The cells of all lists, base and tail of each in turn.

    Safe to share by threads, and by searches of the same lists.

    Attributes:
        lists: of one version.
        prior: of their items.
        firsts_M: int64, the first row of each.
        sizes_M: int64, how many rows each has.
        present_M: int64, how many items.
        codes_M: int64, whose list it is of.
        prior_MP: float32, the prior's mean of its items.
    """

    def __init__(self, lists: CodeLists, prior: RecencyPrior) -> None:
        self.lists, self.prior = lists, prior
        firsts, sizes, blocks, means, stretches = [], [], [], [], []
        for code, one in enumerate(lists.lists):
            first = int(lists.starts_C[code])
            for block, rows in enumerate(one.blocks):
                firsts.append(first + rows.starts[:-1])
                sizes.append(np.diff(rows.starts))
                blocks.append(np.full(len(rows.means), 2 * code + block))
                means.append(rows.means)
                if len(rows):
                    stretches.append((first, first + len(rows), code))
                first += len(rows)
        # every block as one run, for lists that are scored whole
        self._whole = np.array(stretches, np.int64).reshape(-1, 3)
        self.firsts_M = np.concatenate(firsts)
        self.sizes_M = np.concatenate(sizes)
        self._blocks_M = np.concatenate(blocks)
        self.codes_M = codes_M = self._blocks_M >> 1
        bounds = np.searchsorted(codes_M, np.arange(1, len(lists.lists)))
        # of each code: its cells and their means
        self._cells_C = np.split(np.arange(len(codes_M)), bounds)
        self._means_C = np.split(np.concatenate(means), bounds)
        gone = np.concatenate(
            [lists.starts_C[code] + one.removed for code, one in enumerate(lists.lists)]
        )
        self.present_M = self.sizes_M - np.bincount(self._cells(gone), minlength=len(codes_M))
        total = np.zeros((len(codes_M), prior.features_eP.shape[1]), np.float32)
        at = self._cells(prior.positions_e)
        np.add.at(total, at, prior.features_eP)
        self.prior_MP = total / np.maximum(self.present_M, 1)[:, None].astype(np.float32)

    def _cells(self, positions: Ids) -> Ids:
        """The cell of each position."""
        return np.searchsorted(self.firsts_M, positions, side="right") - 1

    def whole(self, codes_S: Ids) -> Runs:
        """All rows of the lists of some codes."""
        wanted_C = np.zeros(len(self.lists.lists), bool)
        wanted_C[codes_S] = True
        return Runs(*self._whole[wanted_C[self._whole[:, 2]]].T)

    def best(
        self,
        codes_S: Ids,
        users_SD: Floats,
        weights_P: Floats,
        most: int,
        wanted: int,
        only: Selection | None = None,
    ) -> Ids:
        """The best cells of some lists, ascending.

        Args:
            codes_S: ascending.
            users_SD: the user vector of each.
            weights_P: of the prior.
            most: rows, those of removed items too, which cost as much; but for one cell, that is
                always taken.
            wanted: items that they must hold where the lists hold as many.
            only: what may answer; then no other rows count.
        """
        present_M, sizes_M = self._counts(only)
        codes = codes_S.tolist()
        estimates = np.concatenate(
            [self._means_C[code] @ user for code, user in zip(codes, users_SD, strict=True)]
        )
        cells = np.concatenate([self._cells_C[code] for code in codes])
        estimates += self.prior_MP[cells] @ weights_P
        estimates[present_M[cells] == 0] = -np.inf  # last, and so hardly ever looked into
        ranked = cells[np.argsort(-estimates, kind="stable")]
        held = np.cumsum(present_M[ranked])
        count = np.searchsorted(np.cumsum(sizes_M[ranked]), most, side="right")
        enough = np.searchsorted(held, wanted) + 1
        chosen = np.sort(ranked[: max(count, enough)])
        return chosen if only is None else chosen[present_M[chosen] > 0]

    def _counts(self, only: Selection | None) -> tuple[Ids, Ids]:
        """How many items of each cell may answer, and how many rows it counts for."""
        if only is None:
            return self.present_M, self.sizes_M
        return only.counts_M, only.counts_M

    def runs(self, chosen: Ids) -> Runs:
        """All rows of some cells, ascending."""
        firsts, sizes, blocks = (x[chosen] for x in (self.firsts_M, self.sizes_M, self._blocks_M))
        lasts = firsts + sizes
        begins = np.ones(len(chosen) + 1, bool)
        begins[1:-1] = (firsts[1:] != lasts[:-1]) | (blocks[1:] != blocks[:-1])
        return Runs(firsts[begins[:-1]], lasts[begins[1:]], blocks[begins[:-1]] >> 1)

    def of_many(
        self,
        searched_BC: NDArray[np.bool_],
        encoded: EncodedQueries,
        most_B: Ids,
        wanted_B: Ids,
        only: Selection | None = None,
    ) -> NDArray[np.bool_]:
        """The rows of the best cells for each of many queries, marked among all rows: (B, T).

        Args:
            searched_BC: whose lists are searched.
            encoded: the queries.
            most_B: as `best`; lists that hold no more are taken whole.
            wanted_B: as `best`.
            only: as `best`; the others are not marked.
        """
        present_M, sizes_M = self._counts(only)
        in_BM = searched_BC[:, self.codes_M]
        estimates_BM = encoded.weights_BP @ self.prior_MP.T
        for column, code in enumerate(encoded.codes_U.tolist()):
            if len(cells := self._cells_C[code]):
                here = slice(cells[0], cells[-1] + 1)
                estimates_BM[:, here] += encoded.users_BUD[:, column] @ self._means_C[code].T
        estimates_BM[~in_BM | (present_M == 0)] = -np.inf
        ranked_BM = _descending(estimates_BM)
        in_order_BM = np.take_along_axis(in_BM, ranked_BM, axis=1)
        rows_BM = np.cumsum(sizes_M[ranked_BM] * in_order_BM, axis=1)
        held_BM = np.cumsum(present_M[ranked_BM] * in_order_BM, axis=1)
        count_B = (rows_BM <= most_B[:, None]).sum(axis=1)
        enough_B = (held_BM < wanted_B[:, None]).sum(axis=1) + 1
        taken_B = np.maximum(count_B, enough_B)
        sizes_C = self.lists.lengths_C if only is None else only.sizes_C
        taken_B[searched_BC @ sizes_C <= most_B] = len(self.sizes_M)
        chosen_BM = np.empty_like(in_BM)
        first_BM = np.arange(len(self.sizes_M)) < taken_B[:, None]
        np.put_along_axis(chosen_BM, ranked_BM, first_BM, axis=1)
        rows_BT = np.repeat(chosen_BM & in_BM, self.sizes_M, axis=1)
        return rows_BT if only is None else rows_BT & only.mask_N


def _descending(x_BM: Floats) -> Ids:
    """Columns of each row, the greatest first and equal ones in order.

    Whole numbers that hold both are sorted in a part of the time of a stable argsort.

    >>> _descending(np.array([[1, 3, -2, 3, -np.inf]], np.float32)).tolist()
    [[1, 3, 0, 2, 4]]
    """
    bits_BM = (np.float32(0) - x_BM).view(np.int32).astype(np.int64)
    bits_BM ^= (bits_BM >> 31) & 0x7FFFFFFF  # as whole numbers they order as they do as numbers
    keys_BM = (bits_BM << 32) | np.arange(x_BM.shape[1])
    keys_BM.sort(axis=1)
    return keys_BM & 0xFFFFFFFF
