"""Scores of the items that may answer: those of the searched lists, and the evidence.

Queries are scored together, list by list, so that each list is one matrix product.

Shapes: B queries, S searched codes, D dimension, E items of evidence, W candidates of a query, K
places of an answer.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from indexer.lists.code_lists import CodeLists
from indexer.search.code_choice import EncodedQueries, Excluded
from indexer.search.config import Quota
from indexer.search.evidence import Evidence

LONG_LIST = 2048
"""Lists longer than this contribute their best k only, so that the score matrix stays narrow."""


class ListScores:
    """Scores candidates; safe to share by threads.

    Args:
        lists: of one version.
        quota: how many places a code gets.
        evidence: what is scored whatever its code, None for nothing.
    """

    def __init__(self, lists: CodeLists, quota: Quota, evidence: Evidence | None) -> None:
        self._lists = lists
        self._quota = quota
        self._evidence = evidence
        self._positions = np.arange(len(lists.item_ids_N), dtype=np.int32)

    def best(self, encoded: EncodedQueries) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores and positions of the k best candidates of each query, in no order.

        Both are (B, k), or narrower where there are fewer; unwanted items score -inf.
        """
        k = encoded.queries.k
        scores_BW, positions_BW = self._scored(encoded, self._widths(encoded))
        if encoded.evidence is not None:
            scores_BE = self._evident(encoded)
            scores_BW = np.hstack([scores_BW, scores_BE])
            positions_BW = np.hstack(
                [positions_BW, encoded.evidence[0].clip(min=0).astype(np.int32)]
            )
        W = scores_BW.shape[1]
        if k < W:
            best = np.argpartition(scores_BW, W - k, axis=1)[:, W - k :]
            scores_BW = np.take_along_axis(scores_BW, best, axis=1)
            positions_BW = np.take_along_axis(positions_BW, best, axis=1)
        return scores_BW, positions_BW.astype(np.int64)

    def every(self, encoded: EncodedQueries) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Scores and positions (B, N) of all items of the searched lists, list by list."""
        return self._scored(encoded, np.full_like(encoded.searched_BS, -1))

    def _evident(self, encoded: EncodedQueries) -> NDArray[np.float32]:
        """Scores (B, E) of the evidence; -inf where its list is searched, or it is unwanted."""
        assert self._evidence is not None and encoded.evidence is not None  # noqa: S101 - see best
        positions_BE, codes_BE, users_BCD = encoded.evidence
        scores_BE = self._evidence.scores(positions_BE, codes_BE, users_BCD)
        searched_BC = np.zeros((len(scores_BE), len(self._lists.lists) + 1), bool)
        np.put_along_axis(searched_BC, encoded.searched_BS, True, axis=1)  # -1: the last column
        searched_BC[:, -1] = False
        scores_BE[np.take_along_axis(searched_BC, codes_BE, axis=1)] = -np.inf
        excluded = encoded.excluded
        at = self._lists.starts_C[excluded.code] + excluded.row
        self._evidence.leave_out(scores_BE, positions_BE, excluded.query, at)
        return scores_BE

    def _widths(self, encoded: EncodedQueries) -> NDArray[np.int64]:
        """How many candidates each list contributes, -1 for the whole list."""
        searched_BS, k = encoded.searched_BS, encoded.queries.k
        excluded = encoded.excluded_in_slots
        room_BS = np.where(searched_BS >= 0, self._lists.sizes_C[searched_BS], 0)
        np.subtract.at(room_BS, (excluded.query, excluded.slot), 1)
        if self._quota == "equal":
            return equal_quotas(room_BS, k)
        return np.where(self._lists.lengths_C[searched_BS] > LONG_LIST, np.minimum(room_BS, k), -1)

    def _scored(
        self, encoded: EncodedQueries, cut_BS: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Scores (B, W) of the candidates and their positions in the lists; -inf where unwanted."""
        searched_BS, excluded = encoded.searched_BS, encoded.excluded_in_slots
        S = searched_BS.shape[1]
        lengths_BS = np.where(searched_BS >= 0, self._lists.lengths_C[searched_BS], 0)
        widths_BS = np.where(cut_BS < 0, lengths_BS, cut_BS)
        starts_BS = np.cumsum(widths_BS, axis=1) - widths_BS
        W = max(1, int(widths_BS.sum(axis=1).max(initial=0)))
        scores_BW = np.full((len(searched_BS), W), -np.inf, np.float32)
        positions_BW = np.zeros((len(searched_BS), W), np.int32)
        flat = searched_BS.ravel()
        order = np.argsort(flat, kind="stable")
        users = encoded.users_BSD.reshape(-1, encoded.users_BSD.shape[-1])[order]
        cut = cut_BS.ravel()[order]
        bounds = np.searchsorted(flat[order], np.arange(len(self._lists.lists) + 1))
        queries, starts = (order // S).tolist(), starts_BS.ravel()[order].tolist()
        for code in np.unique(flat[flat >= 0]).tolist():
            here = slice(bounds[code], bounds[code + 1])
            first, size = self._lists.starts_C[code], self._lists.lengths_C[code]
            positions = self._positions[first : first + size]
            if (cut[here] < 0).all():
                for one, query, start in zip(
                    self._list_scores(code, users[here]),
                    queries[here],
                    starts[here],
                    strict=True,
                ):
                    scores_BW[query, start : start + size] = one
                    positions_BW[query, start : start + size] = positions
                continue
            ranked = self._list_best(
                code, users[here], cut[here], excluded, np.array(queries[here])
            )
            for (one, rows), query, start in zip(ranked, queries[here], starts[here], strict=True):
                scores_BW[query, start : start + len(rows)] = one
                positions_BW[query, start : start + len(rows)] = positions[rows]
        whole = cut_BS[excluded.query, excluded.slot] < 0
        query, slot, row = excluded.query[whole], excluded.slot[whole], excluded.row[whole]
        scores_BW[query, starts_BS[query, slot] + row] = -np.inf
        return scores_BW, positions_BW

    def _list_scores(self, code: int, users: NDArray[np.float32]) -> NDArray[np.float32]:
        one = self._lists.lists[code]
        scores = one.scores(users)
        if len(one.removed):
            scores[:, one.removed] = -np.inf
        return scores

    def _list_best(
        self,
        code: int,
        users: NDArray[np.float32],
        counts: NDArray[np.int64],
        excluded: Excluded,
        queries: NDArray[np.int64],
    ) -> list[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        """For each query of this code its `counts` best wanted items: scores and rows."""
        here = excluded.code == code
        unwanted = {
            q: excluded.row[here & (excluded.query == q)]
            for q in np.unique(excluded.query[here]).tolist()
        }
        none = np.empty(0, np.int64)
        if len(users) == 1:
            without = unwanted.get(int(queries[0]), none)
            return [self._lists.lists[code].best(users[0], int(counts[0]), without)]
        scores_bn = self._list_scores(code, users)
        n = scores_bn.shape[1]
        ranked = []
        for scores_n, query, count in zip(
            scores_bn, queries.tolist(), counts.tolist(), strict=True
        ):
            scores_n[unwanted.get(query, none)] = -np.inf
            rows = np.argpartition(scores_n, n - count)[n - count :] if count else none
            rows = rows[np.argsort(-scores_n[rows], kind="stable")]
            ranked.append((scores_n[rows], rows))
        return ranked


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
