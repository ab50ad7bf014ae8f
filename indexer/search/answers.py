"""What a search answers, with where each item came from.

Shapes: B queries, K results, S searched codes, C codes, N items in the lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Answers:
    """Answers to B queries, best first.

    Attributes:
        items_BK: int64 item ids, -1 where the catalogue ended.
        scores_BK: float32, never ascending; -inf at padding.
        item_codes_BK: int64 first-level code that brought the item, -1 at padding.
        item_log_probabilities_BK: float32 log p(c|u) of that code.
        searched_BS: int64 codes searched, most probable first, -1 padded.
        probabilities_BS: float32 p(c|u) of them, 0 at padding.
        quota_BS: int64 places of the answer that each of them filled.
        propensities_BK: float32 probability with which the item came to its place, given those
            before it: 1 for what was ranked, less for what was drawn
            (`indexer.search.exploration`).
        scored_B: int64 how many items were scored for it.
    """

    items_BK: NDArray[np.int64]
    scores_BK: NDArray[np.float32]
    item_codes_BK: NDArray[np.int64]
    item_log_probabilities_BK: NDArray[np.float32]
    searched_BS: NDArray[np.int64]
    probabilities_BS: NDArray[np.float32]
    quota_BS: NDArray[np.int64]
    propensities_BK: NDArray[np.float32]
    scored_B: NDArray[np.int64]

    def taken(self, rows: NDArray[np.int64]) -> Answers:
        """Those to some of the queries, in this order."""
        return Answers(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass(frozen=True)
class Candidates:
    """Every item of every list, scored for B queries, to judge what a search leaves out.

    A row holds the lists that have items one after the other, the most probable code's first.

    Attributes:
        items_BN: int64 item ids, -1 at rows whose item was removed.
        scores_BN: float32, -inf for what must not be answered.
        searched_BS: int64 codes in the order of the row.
        starts_BS: int64 where in the row each of their lists begins.
        log_p_BC: float32 log p(c|u) of every code.
        evidence_BN: True for items that are scored whatever their code.
    """

    items_BN: NDArray[np.int64]
    scores_BN: NDArray[np.float32]
    searched_BS: NDArray[np.int64]
    starts_BS: NDArray[np.int64]
    log_p_BC: NDArray[np.float32]
    evidence_BN: NDArray[np.bool_]


def padded(x: NDArray[Any], k: int, value: float) -> NDArray[Any]:
    """Rows widened to k."""
    if x.shape[1] == k:
        return x
    return np.pad(x, ((0, 0), (0, k - x.shape[1])), constant_values=value)


def joined(parts: Sequence[Answers], k: int) -> Answers:
    """Answers of several batches one below the other."""
    if not parts:
        none, some = np.empty((0, k), np.int64), np.empty((0, k), np.float32)
        one = none[:, :1]
        return Answers(none, some, none, some, one, some[:, :1], one, some, one[:, 0])
    if len(parts) == 1:
        return parts[0]
    S = max(part.searched_BS.shape[1] for part in parts)
    return Answers(
        np.concatenate([p.items_BK for p in parts]),
        np.concatenate([p.scores_BK for p in parts]),
        np.concatenate([p.item_codes_BK for p in parts]),
        np.concatenate([p.item_log_probabilities_BK for p in parts]),
        np.concatenate([padded(p.searched_BS, S, -1) for p in parts]),
        np.concatenate([padded(p.probabilities_BS, S, 0.0) for p in parts]),
        np.concatenate([padded(p.quota_BS, S, 0) for p in parts]),
        np.concatenate([p.propensities_BK for p in parts]),
        np.concatenate([p.scored_B for p in parts]),
    )
