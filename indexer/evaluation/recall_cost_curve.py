"""What soft search costs: quality against the number of codes searched, in one pass.

Every list is scored once; with K codes the answer is the best of the first K lists (more where
they hold fewer than 50 items that may be answered, as the search does) and of the items that are
scored whatever their code. So the rank of a target under every K is the number of better items up
to the end of the K-th list, and of better ones among those items behind it. What the lists would
have found alone stands beside it: it is the cost of the codes, without what evidence repairs.

Shapes: B queries, R rows, S codes with items, N items, K numbers of codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from indexer.search.answers import Candidates
from model.evaluation import gains
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
        self._ranks_alone: list[np.ndarray] = []
        self._shares_alone: list[np.ndarray] = []

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
        alone_RK = np.take_along_axis(_sums(better_RN), end_RK - 1, axis=1) + 1
        anyway_R1 = evidence_RN[np.arange(len(place_R)), place_R][:, None]
        wanted_R1 = np.isfinite(target_R)[:, None]
        listed_RK = (place_R[:, None] < end_RK) & wanted_R1
        more_RN = _sums(evidence_RN)
        more_RK = more_RN[:, -1:] - np.take_along_axis(more_RN, end_RK - 1, axis=1)
        self._ranks.append(
            _within(alone_RK + behind_RK, listed_RK | (anyway_R1 & wanted_R1)),
        )
        self._shares.append(((end_RK + more_RK) / count).astype(np.float32))
        self._ranks_alone.append(_within(alone_RK, listed_RK))
        self._shares_alone.append((end_RK / count).astype(np.float32))

    def _searched(self, scores_BN: np.ndarray, last_BS: np.ndarray) -> np.ndarray:
        """How many lists are searched: (B, K)."""
        wanted_BN = np.cumsum(scores_BN > -np.inf, axis=1, dtype=np.int32)
        needed_B = (np.take_along_axis(wanted_BN, last_BS - 1, axis=1) < LIST_LENGTH).sum(1) + 1
        most = last_BS.shape[1]
        codes_K = np.array([k or most for k in self.codes_K])
        return np.minimum(np.maximum(needed_B[:, None], codes_K), most)

    def ranks(self, codes: int, alone: bool = False) -> np.ndarray:
        """Rank of each row's target, 0 for a miss, with so many codes searched; (R,).

        `alone`: with the lists alone.
        """
        column = self.codes_K.index(codes)
        parts = self._ranks_alone if alone else self._ranks
        return np.concatenate([np.empty(0, np.int16), *(ranks[:, column] for ranks in parts)])

    def report(self) -> list[dict[str, Any]]:
        """For each number of codes ("all" the last): recall, NDCG, share of the catalogue scored.

        `kept` is the share of the exhaustive ranking's Recall@50; `lists_alone` holds the same
        figures without the items that are scored whatever their code.
        """
        if not self._ranks:
            return []
        rank_RK, share_RK = np.concatenate(self._ranks), np.concatenate(self._shares)
        exhaustive = float(gains.recall_gain(rank_RK[:, -1], 50).mean())
        alone_RK = np.concatenate(self._ranks_alone)
        share_alone_RK = np.concatenate(self._shares_alone)
        return [
            {"codes": codes or "all"}
            | _figures(rank_RK[:, k], share_RK[:, k], exhaustive)
            | {"lists_alone": _figures(alone_RK[:, k], share_alone_RK[:, k], exhaustive)}
            for k, codes in enumerate(self.codes_K)
        ]


def _within(rank_RK: np.ndarray, answerable_RK: np.ndarray) -> np.ndarray:
    """Ranks within the answer, else 0."""
    return np.where(answerable_RK & (rank_RK <= LIST_LENGTH), rank_RK, 0).astype(np.int16)


def _figures(rank_R: np.ndarray, share_R: np.ndarray, exhaustive: float) -> dict[str, Any]:
    recall = float(gains.recall_gain(rank_R, 50).mean())
    return {
        "recall@20": float(gains.recall_gain(rank_R, 20).mean()),
        "recall@50": recall,
        "ndcg@50": float(gains.ndcg_gain(rank_R, 50).mean()),
        "share_scored": float(share_R.mean(dtype=np.float64)),
        "kept": recall / exhaustive if exhaustive else None,
    }
