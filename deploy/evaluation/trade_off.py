"""What soft search costs: quality against the number of codes searched, in one pass.

Every list is scored once; with K codes the answer is the best of the first K lists (more where
they hold fewer than 50 items that may be answered, as the search does) and of the items that are
scored whatever their code. So the rank of a target under every K is the number of better items up
to the end of the K-th list, and of better ones among those items behind it.

Shapes: B queries, R rows, S codes with items, N items, K numbers of codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from indexer.answers import Candidates
from model.evaluation import metrics
from model.evaluation.protocol import LIST_LENGTH

EVERY = 0
"""Stands for all codes: the exhaustive ranking."""


def _sums(x_RN: np.ndarray) -> np.ndarray:
    return np.cumsum(x_RN, axis=1, dtype=np.int32)


class TradeOff:
    """Collects the rank of each target under each number of codes searched."""

    def __init__(self, codes_K: Sequence[int]) -> None:
        self.codes_K = [*codes_K, EVERY]
        self._ranks: list[np.ndarray] = []
        self._shares: list[np.ndarray] = []

    def add(self, candidates: Candidates, query_R: np.ndarray, targets_R: np.ndarray) -> None:
        """Take in the rows of some queries.

        Args:
            candidates: of B queries.
            query_R: which of them each row asks.
            targets_R: item ids.
        """
        if not len(query_R):
            return
        scores_BN, items_BN = candidates.scores_BN, candidates.items_BN
        count = scores_BN.shape[1]
        last_BS = np.pad(candidates.starts_BS[:, 1:], ((0, 0), (0, 1)), constant_values=count)
        searched_BK = self._searched(scores_BN, last_BS)
        end_BK = np.take_along_axis(last_BS, searched_BK - 1, axis=1)
        is_target_RN = items_BN[query_R] == targets_R[:, None]
        place_R = is_target_RN.argmax(axis=1)
        target_R = np.where(
            is_target_RN.any(axis=1), scores_BN[query_R, place_R], np.float32(-np.inf)
        )
        scores_RN = scores_BN[query_R]
        better_RN = scores_RN > target_R[:, None]
        better_RN |= (scores_RN == target_R[:, None]) & (items_BN[query_R] < targets_R[:, None])
        end_RK = end_BK[query_R]
        evidence_RN = candidates.evidence_BN[query_R]
        behind_RN = _sums(better_RN & evidence_RN)
        behind_RK = behind_RN[:, -1:] - np.take_along_axis(behind_RN, end_RK - 1, axis=1)
        rank_RK = np.take_along_axis(_sums(better_RN), end_RK - 1, axis=1) + behind_RK + 1
        anyway_R = evidence_RN[np.arange(len(place_R)), place_R]
        answerable_RK = (place_R[:, None] < end_RK) | anyway_R[:, None]
        answerable_RK &= np.isfinite(target_R)[:, None]
        more_RN = _sums(evidence_RN)
        more_RK = more_RN[:, -1:] - np.take_along_axis(more_RN, end_RK - 1, axis=1)
        rank_RK = np.where(answerable_RK & (rank_RK <= LIST_LENGTH), rank_RK, 0)
        self._ranks.append(rank_RK.astype(np.int16))
        self._shares.append(((end_RK + more_RK) / count).astype(np.float32))

    def _searched(self, scores_BN: np.ndarray, last_BS: np.ndarray) -> np.ndarray:
        """How many lists are searched: (B, K)."""
        wanted_BN = np.cumsum(scores_BN > -np.inf, axis=1, dtype=np.int32)
        needed_B = (np.take_along_axis(wanted_BN, last_BS - 1, axis=1) < LIST_LENGTH).sum(1) + 1
        most = last_BS.shape[1]
        codes_K = np.array([k or most for k in self.codes_K])
        return np.minimum(np.maximum(needed_B[:, None], codes_K), most)

    def ranks(self, codes: int) -> np.ndarray:
        """Rank of each row's target, 0 for a miss, with so many codes searched; (R,)."""
        column = self.codes_K.index(codes)
        return np.concatenate([np.empty(0, np.int16), *(r[:, column] for r in self._ranks)])

    def report(self) -> list[dict[str, Any]]:
        """For each number of codes ("all" the last): recall, NDCG, share of the catalogue scored.

        `kept` is the share of the exhaustive ranking's Recall@50.
        """
        if not self._ranks:
            return []
        rank_RK, share_RK = np.concatenate(self._ranks), np.concatenate(self._shares)
        exhaustive = float(metrics.recall_gain(rank_RK[:, -1], 50).mean())
        rows = []
        for column, codes in enumerate(self.codes_K):
            rank_R = rank_RK[:, column]
            recall = float(metrics.recall_gain(rank_R, 50).mean())
            rows.append(
                {
                    "codes": codes or "all",
                    "recall@20": float(metrics.recall_gain(rank_R, 20).mean()),
                    "recall@50": recall,
                    "ndcg@50": float(metrics.ndcg_gain(rank_R, 50).mean()),
                    "share_scored": float(share_RK[:, column].mean(dtype=np.float64)),
                    "kept": recall / exhaustive if exhaustive else None,
                }
            )
        return rows
