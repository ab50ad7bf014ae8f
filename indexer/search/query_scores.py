"""The items that may answer a query, scored: rows of the searched lists, and the evidence.

One query at a time: batches are encoded together, and in a large catalogue what follows costs a
query alone as much as one of many; many queries of a small one are scored at once
(`indexer.search.whole_scores`), and where the lists are on a device all of any catalogue
(`indexer.search.device_scores`). An item scores s(u, i, c), the inner product of its vector with
the user vector of its code, what its recency prior adds, and, where it is a neighbour of the
history, what that adds.

Shapes: S searched codes, U codes with user vectors, D dimension, W rows of lists that are scored, X
items of evidence beside them, k answers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from indexer.lists.device_rows import DeviceFull, DeviceRows
from indexer.search.cell_choice import CellChoice, Runs
from indexer.search.code_choice import EncodedQueries
from indexer.search.config import SearchConfig
from indexer.search.device_scores import DeviceScores
from indexer.search.evidence import HotItems
from indexer.search.selection import Selection
from indexer.search.whole_scores import WholeScores

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]


class Scored(NamedTuple):
    """Scores and positions of candidates; -inf where one must not be answered.

    The first `rows` are rows of lists, ascending by position; the others are evidence, in no order.
    """

    scores: Floats
    positions: Ids
    rows: int


class QueryScores:
    """Scores candidates; safe to share by threads.

    Args:
        cells: of the lists of one version.
        config: how queries are answered.
        hot: items that are scored whatever their code.
        device: takes the rows, where they fit and quota is joint; None: they stay where they are.
    """

    def __init__(
        self,
        cells: CellChoice,
        config: SearchConfig,
        hot: HotItems,
        device: DeviceRows | None = None,
    ) -> None:
        self._cells = cells
        self._lists, self._prior = lists, prior = cells.lists, cells.prior
        self._joint = config.quota == "joint"
        self._with_evidence = self._joint and config.evidence > 0
        self._bounded = self._joint and config.scored_share < 1
        self._config = config
        self._hot = hot
        self._hot_prior_HP = prior.features(hot.positions_H)
        most = self._most if self._bounded else None
        how = cells, hot, self._with_evidence, most
        self._whole = WholeScores(*how)
        self._device, self._on_device = device, None
        if device is not None and self._joint and len(lists):
            try:
                self._on_device = DeviceScores(device, *how)
            except DeviceFull as error:
                device.refuse(error)
        self._gone_N = None
        if int(lists.lengths_C.sum()) > len(lists):
            self._gone_N = lists.item_ids_N < 0

    def _most(self, only: Selection | None) -> int:
        """How many items may be scored for a query."""
        share = 1.0 if only is None else only.share
        return self._config.most_scored(len(self._lists), share)

    def codes_among(self, only: Selection | None, codes: int) -> int:
        """How many codes to search for `codes` of all items.

        So many that they hold as much that may answer; all where that little is scored whole.
        """
        if only is None or not len(only) or not self._joint:
            return codes
        every = len(self._lists.lists)
        if not only.dense and len(only) <= self._most(only):
            return every
        return min(every, max(codes, round(codes / only.share)))

    def select(self, mask_N: NDArray[np.bool_]) -> Selection:
        """What may answer, given the rows that may; those of removed items may not."""
        if self._gone_N is not None:
            mask_N = mask_N & ~self._gone_N
        return Selection(self._lists, self._cells.firsts_M, mask_N)

    def best_of_all(self, encoded: EncodedQueries) -> tuple[Floats, Ids, Ids]:
        """The k best candidates of each query, in no order, and how many were scored.

        Scores and positions are (B, k), or narrower where nobody finds as many; -inf and 0 where
        there is none, and for what must not be answered.
        """
        B, k = len(encoded.queries), encoded.queries.k
        if self._on_device is not None and self._device is not None:
            try:
                return self._on_device.best(encoded)
            except DeviceFull as error:  # what else uses it may be gone when the next ones come
                self._device.refuse(error)
        if self._joint and self._whole.suits(B):
            return self._whole.best(encoded)
        scores_BK, positions_BK = np.full((B, k), -np.inf, np.float32), np.zeros((B, k), np.int64)
        scored_B = np.zeros(B, np.int64)
        for b in range(B):
            scores, positions, scored_B[b] = self.best(encoded, b)
            scores_BK[b, : len(scores)] = scores
            positions_BK[b, : len(scores)] = positions
        return scores_BK, positions_BK, scored_B

    def best(self, encoded: EncodedQueries, b: int) -> tuple[Floats, Ids, int]:
        """The k best candidates of a query, in no order, and how many were scored.

        Scores and positions are (k,), or fewer; unwanted items score -inf.
        """
        scored, k = self._candidates(encoded, b), encoded.queries.k
        if not self._joint:
            return *self._equal(scored, encoded, b), len(scored.scores)
        scores, positions = scored.scores, scored.positions
        if k < len(scores):
            best = np.argpartition(scores, len(scores) - k)[len(scores) - k :]
            scores, positions = scores[best], positions[best]
        return scores, positions, len(scored.scores)

    def _candidates(self, encoded: EncodedQueries, b: int) -> Scored:
        codes_S = np.sort(encoded.searched_BS[b])
        codes_S = codes_S[np.searchsorted(codes_S, 0) :]
        users_UD, weights_P = encoded.users_BUD[b], encoded.weights_BP[b]
        unwanted = encoded.excluded.of_query(b)
        near, only = encoded.near.of_query(b), encoded.queries.only
        rows_C = self._lists.lengths_C if only is None else only.sizes_C
        picked = None if only is None or only.dense else only
        most = self._most(only)
        if self._with_evidence and picked is None:
            most -= len(self._hot.among(only)) * encoded.hot + len(near[0])
        if self._bounded and int(rows_C[codes_S].sum()) > most:
            users_SD = users_UD[encoded.column_C[codes_S]]
            wanted = encoded.queries.k + len(unwanted)
            cells = self._cells.best(codes_S, users_SD, weights_P, most, wanted, only)
            rows = picked.of_cells(cells) if picked is not None else self._cells.runs(cells)
        else:
            rows = picked.of_codes(codes_S) if picked is not None else self._cells.whole(codes_S)
        return self._scored(encoded, b, rows, unwanted, near)

    def every(self, encoded: EncodedQueries, b: int) -> tuple[Scored, Ids]:
        """All items of the searched lists, and the positions of the evidence."""
        near = encoded.near.of_query(b)
        searched_S = encoded.searched_BS[b]
        rows = self._cells.whole(searched_S[searched_S >= 0])
        scored = self._scored(encoded, b, rows, encoded.excluded.of_query(b), near)
        if not self._with_evidence:
            return scored, np.empty(0, np.int64)
        return scored, np.concatenate([self._hot.positions_H, near[0]])

    def _scored(
        self,
        encoded: EncodedQueries,
        b: int,
        rows: Runs | Ids,
        unwanted: Ids,
        near: tuple[Ids, Ids, Floats, Floats],
    ) -> Scored:
        users_UD, weights_P = encoded.users_BUD[b], encoded.weights_BP[b]
        column_C = encoded.column_C
        if isinstance(rows, Runs):
            positions_W = rows.positions()
            scores_W = self._side_by_side(rows, users_UD, column_C)
        else:
            positions_W, scores_W = rows, self._one_by_one(rows, users_UD, column_C)
        scores_W += self._prior.scores(positions_W, weights_P)
        if (only := encoded.queries.only) is not None:
            scores_W[~only.mask_N[positions_W]] = -np.inf
        elif self._gone_N is not None:
            scores_W[self._gone_N[positions_W]] = -np.inf
        near_positions, codes, vectors, adds = near
        near_scores = np.einsum("nd,nd->n", vectors, users_UD[column_C[codes]])
        near_scores += self._prior.scores(near_positions, weights_P) + adds
        at, here = _places(positions_W, near_positions)
        scores_W[at[here]] = near_scores[here]
        parts = [(scores_W, positions_W)]
        if self._with_evidence:
            parts.append((near_scores[~here], near_positions[~here]))
        if self._with_evidence and encoded.hot:
            users_HD = users_UD[column_C[self._hot.codes_H]]
            hot = self._hot_beside(users_HD, weights_P, positions_W, near_positions, only)
            parts.append(hot)
        scores = np.concatenate([part for part, _ in parts])
        positions = np.concatenate([part for _, part in parts])
        if len(unwanted):
            at, here = _places(positions_W, unwanted)
            scores[at[here]] = -np.inf
            beside = slice(len(positions_W), None)
            scores[beside][_places(np.sort(unwanted), positions[beside])[1]] = -np.inf
        return Scored(scores, positions, len(positions_W))

    def _side_by_side(self, runs: Runs, users_UD: Floats, column_C: Ids) -> Floats:
        """Inner products of rows with the user vectors of their codes."""
        sizes = (runs.lasts_R - runs.firsts_R).tolist()
        scores_W = np.empty(sum(sizes), np.float32)
        starts = self._lists.starts_C[runs.codes_R]
        w = 0
        for size, code, column, first in zip(
            sizes,
            runs.codes_R.tolist(),
            column_C[runs.codes_R].tolist(),
            (runs.firsts_R - starts).tolist(),
            strict=True,
        ):
            self._lists.lists[code].score(
                first, first + size, users_UD[column], scores_W[w : w + size]
            )
            w += size
        return scores_W

    def _one_by_one(self, positions_W: Ids, users_UD: Floats, column_C: Ids) -> Floats:
        """The same of rows that are picked out, ascending."""
        scores_W = np.empty(len(positions_W), np.float32)
        lists = self._lists
        ends_C = np.searchsorted(positions_W, lists.starts_C + lists.lengths_C)
        begin = 0
        for code in np.flatnonzero(np.diff(ends_C, prepend=0)).tolist():
            end = int(ends_C[code])
            rows = positions_W[begin:end] - lists.starts_C[code]
            lists.lists[code].score_rows(rows, users_UD[column_C[code]], scores_W[begin:end])
            begin = end
        return scores_W

    def _hot_beside(
        self,
        users_HD: Floats,
        weights_P: Floats,
        positions_W: Ids,
        near_positions: Ids,
        only: Selection | None,
    ) -> tuple[Floats, Ids]:
        """Hot items that may answer and are scored nowhere else."""
        hot = self._hot.positions_H
        new = ~(_places(positions_W, hot)[1] | _places(near_positions, hot)[1])
        if only is not None:
            new &= only.has(hot)
        scores = np.einsum("hd,hd->h", self._hot.vectors_HD, users_HD)
        scores += self._hot_prior_HP @ weights_P
        return scores[new], hot[new]

    def _equal(self, scored: Scored, encoded: EncodedQueries, b: int) -> tuple[Floats, Ids]:
        """As many of each searched code as its quota says."""
        searched_S = encoded.searched_BS[b]
        codes = self._lists.codes_at(scored.positions)
        room_C = np.bincount(codes[scored.scores > -np.inf], minlength=len(self._lists.lists))
        room_S = np.where(searched_S >= 0, room_C[searched_S], 0)
        quota_C = np.zeros(len(room_C), np.int64)
        quota_C[searched_S[searched_S >= 0]] = equal_quotas(room_S[None], encoded.queries.k)[0][
            searched_S >= 0
        ]
        order = np.lexsort((-scored.scores, codes))
        codes = codes[order]
        places = np.arange(len(order)) - np.searchsorted(codes, codes)
        best = order[places < quota_C[codes]]
        return scored.scores[best], scored.positions[best]


def _places(sorted_n: Ids, asked: Ids) -> tuple[Ids, NDArray[np.bool_]]:
    """Where each of some positions is among ascending ones, and whether it is there."""
    if not len(sorted_n):
        return np.zeros(len(asked), np.int64), np.zeros(len(asked), bool)
    at = np.searchsorted(sorted_n, asked)
    np.minimum(at, len(sorted_n) - 1, out=at)
    return at, sorted_n[at] == asked


def equal_quotas(room_BS: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Shares k places equally among S lists, none above its room; the first get what is left over.

    What a full list cannot take goes to the others; all of `room_BS` is given where it holds less.

    >>> equal_quotas(np.array([[1, 9, 9], [9, 9, 9]]), 6).tolist()
    [[1, 3, 2], [2, 2, 2]]
    """
    given_BS = np.zeros_like(room_BS)
    while True:
        open_BS = given_BS < room_BS
        left_B1 = k - given_BS.sum(axis=1, keepdims=True)
        share_B1 = left_B1 // open_BS.sum(axis=1, keepdims=True).clip(min=1)
        if not (open_BS & (share_B1 > 0)).any():
            return given_BS + (open_BS & (np.cumsum(open_BS, axis=1) <= left_B1))
        given_BS += np.where(open_BS, np.minimum(share_B1, room_BS - given_BS), 0)
