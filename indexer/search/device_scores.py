"""Many queries scored at once where the lists lie on a device: all rows, for all of them.

The rows that may answer are those that a query alone would score (`indexer.search.query_scores`),
and so are their scores but for rounding: cells are estimated, ranked and taken on the device, too.
It is computed in few large operations, two products for each list, and waited for once; a CPU is
quicker the ways of `query_scores` and `whole_scores`.

Shapes: B queries, T rows of all lists, U codes with user vectors, C codes, M cells, D dimension, P
features of the recency prior, k answers, n pairs of a query and a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from indexer.lists.device_rows import DeviceBlock, DeviceRows, no_memory_left
from indexer.search.cell_choice import CellChoice
from indexer.search.code_choice import EncodedQueries
from indexer.search.evidence import HotItems
from indexer.search.selection import Selection

if TYPE_CHECKING:  # lists that stay where they are need no torch
    from torch import Tensor

SCORE_BYTES = 32
"""For each query and row: score, mask, and what finding the best takes."""
Floats = NDArray[np.float32]
Ids = NDArray[np.int64]


class DeviceScores:
    """Scores all rows of the lists of one version; safe to share by threads.

    Args:
        device: takes the rows.
        cells: of the lists of the version.
        hot: items that may answer whatever their code.
        evidence: whether they and neighbours of the history may.
        most: how many of what may answer may be scored for a query; None: no bound.

    Raises:
        DeviceFull: if the rows do not fit.
    """

    def __init__(
        self,
        device: DeviceRows,
        cells: CellChoice,
        hot: HotItems,
        evidence: bool,
        most: Callable[[Selection | None], int] | None,
    ) -> None:
        import torch

        self._device, self._lists, self._hot = device, cells.lists, hot
        lists, prior = cells.lists, cells.prior
        self._evidence, self._most = evidence, most
        self._rows = T = int(lists.lengths_C.sum())
        features = prior.features_eP.shape[1]
        beside = T * (4 * features + 5) + len(cells.sizes_M) * (4 * features + 24)
        self._held = device.hold(lists, beside)
        try:
            self._sizes_M, self._present_M = device.on(cells.sizes_M), device.on(cells.present_M)
            self._codes_M, self._prior_MP = device.on(cells.codes_M), device.on(cells.prior_MP)
            numbers_M = torch.arange(len(cells.sizes_M), device=device.device, dtype=torch.int32)
            self._cell_T = numbers_M.repeat_interleave(self._sizes_M, output_size=T)
            self._features_TP = torch.zeros((T, features), device=device.device)
            self._features_TP[device.on(prior.positions_e)] = device.on(prior.features_eP)
            self._there_T = torch.ones(T, dtype=torch.bool, device=device.device)
            gone = [lists.starts_C[code] + one.removed for code, one in enumerate(lists.lists)]
            self._there_T[device.on(np.concatenate(gone))] = False
        except torch.OutOfMemoryError as error:
            raise no_memory_left() from error

    def best(self, encoded: EncodedQueries) -> tuple[Floats, Ids, Ids]:
        """The best candidates of each query, best first, and how many were scored.

        Scores and positions are (B, k), or as many as there are rows; -inf where one must not be
        answered.

        Raises:
            DeviceFull: if the device has no memory left just now.
        """
        import torch

        B = len(encoded.queries)
        size = max(1, self._device.scores_bytes // (SCORE_BYTES * self._rows))
        try:
            with self._device.scoring:
                parts = [self._best(encoded, slice(a, min(a + size, B))) for a in range(0, B, size)]
        except torch.OutOfMemoryError as error:
            raise no_memory_left() from error
        scores, positions, scored = zip(*parts, strict=True)
        return np.concatenate(scores), np.concatenate(positions), np.concatenate(scored)

    def _best(self, encoded: EncodedQueries, some: slice) -> tuple[Floats, Ids, Ids]:
        import torch

        on = self._device.on
        weights_BP, users_BUD = on(encoded.weights_BP[some]), on(encoded.users_BUD[some])
        near_at, near_positions, near_adds = self._near(encoded, some)
        excluded = slice(*np.searchsorted(encoded.excluded.query, (some.start, some.stop)))
        unwanted_at = encoded.excluded.query[excluded] - some.start
        only = encoded.queries.only
        hot = self._hot.among(only) if self._evidence and encoded.hot else np.empty(0, np.int64)

        scores_BT = torch.zeros((len(weights_BP), self._rows), device=self._device.device)
        self._products(scores_BT, encoded.codes_U, users_BUD, lambda one: one.vectors_nD)
        scores_BT.addmm_(weights_BP, self._features_TP.T)
        near = on(near_at), on(near_positions)
        scores_BT[near] += on(near_adds)

        most_B = None
        if self._most is not None:
            most_B = np.full(len(weights_BP), self._most(only))
            if self._evidence and (only is None or only.dense):
                most_B -= len(hot) + np.bincount(near_at, minlength=len(most_B))
        wanted_B = encoded.queries.k + np.bincount(unwanted_at, minlength=len(weights_BP))
        chosen_BM = self._chosen(encoded, some, weights_BP, users_BUD, most_B, wanted_B)
        may_BT = chosen_BM.index_select(1, self._cell_T)
        if only is not None:
            may_BT &= on(only.mask_N)
        if self._evidence:
            may_BT[near] = True
            may_BT[:, on(hot)] = True
        scored_B = may_BT.sum(dim=1)
        may_BT &= self._there_T
        may_BT[on(unwanted_at), on(encoded.excluded.position[excluded])] = False
        scores_BT.masked_fill_(~may_BT, -torch.inf)
        scores, positions = torch.topk(scores_BT, min(encoded.queries.k, self._rows))
        return scores.cpu().numpy(), positions.cpu().numpy(), scored_B.cpu().numpy()

    @staticmethod
    def _near(encoded: EncodedQueries, some: slice) -> tuple[Ids, Ids, Floats]:
        """Query, position and addition of each neighbour of a history."""
        positions_BM = encoded.near.positions_BM[some]
        at = np.nonzero(positions_BM >= 0)
        return at[0], positions_BM[at], encoded.near.adds_BM[some][at]

    def _products(
        self,
        out: Tensor,
        codes_U: Ids,
        users_BUD: Tensor,
        of: Callable[[DeviceBlock], Tensor],
    ) -> None:
        """Write, block by block, the user vectors of a list's code by its rows, or its cells."""
        columns = {code: column for column, code in enumerate(codes_U.tolist())}
        first = 0
        for number, block in enumerate(self._held.blocks):
            if block is None:
                continue
            x_nD = of(block)
            if (column := columns.get(number >> 1)) is not None:
                out[:, first : first + len(x_nD)].addmm_(users_BUD[:, column], x_nD.T)
            first += len(x_nD)

    def _chosen(
        self,
        encoded: EncodedQueries,
        some: slice,
        weights_BP: Tensor,
        users_BUD: Tensor,
        most_B: Ids | None,
        wanted_B: Ids,
    ) -> Tensor:
        """Which cells are scored for each query, as `CellChoice.of_many` has it: (B, M)."""
        import torch

        on, only = self._device.on, encoded.queries.only
        searched_BC = np.zeros((len(wanted_B), len(self._lists.lists) + 1), np.bool_)
        np.put_along_axis(searched_BC, encoded.searched_BS[some], True, axis=1)
        searched_BC = searched_BC[:, :-1]  # the last for none
        in_BM = on(searched_BC)[:, self._codes_M]
        sizes_C = self._lists.lengths_C if only is None else only.sizes_C
        if most_B is None or (whole_B := searched_BC @ sizes_C <= most_B).all():
            return in_BM
        present_M, sizes_M = self._present_M, self._sizes_M
        if only is not None:
            present_M = sizes_M = on(only.counts_M)
        estimates_BM = weights_BP @ self._prior_MP.T
        self._products(estimates_BM, encoded.codes_U, users_BUD, lambda one: one.means_mD)
        estimates_BM.masked_fill_(~in_BM | (present_M == 0), -torch.inf)
        ranked_BM = torch.sort(estimates_BM, dim=1, descending=True, stable=True).indices
        in_order_BM = torch.gather(in_BM, 1, ranked_BM)
        rows_BM = torch.cumsum(sizes_M[ranked_BM] * in_order_BM, dim=1)
        held_BM = torch.cumsum(present_M[ranked_BM] * in_order_BM, dim=1)
        count_B = (rows_BM <= on(most_B)[:, None]).sum(dim=1)
        enough_B = (held_BM < on(wanted_B)[:, None]).sum(dim=1) + 1
        taken_B = torch.maximum(count_B, enough_B)
        taken_B[on(whole_B)] = len(self._sizes_M)
        first_BM = torch.arange(len(self._sizes_M), device=in_BM.device) < taken_B[:, None]
        return torch.zeros_like(in_BM).scatter_(1, ranked_BM, first_BM) & in_BM
