"""Two versions answer the same events, in pairs.

Each event is a query with its true answer: the item that the user clicked next. The measure is
Recall@50 (NDCG@50 is noted beside it), the interval is the normal one of the mean paired difference
with the users as clusters, because a user's clicks are not independent (A. C. Cameron, D. L.
Miller, "A Practitioner's Guide to Cluster-Robust Inference", 2015).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexer.search.retriever import Retriever
from model.evaluation.gains import ndcg_gain, ranks, recall_gain
from model.histories import History
from streaming.events import UserSequence

DEPTH = 50


@dataclass(frozen=True)
class Paired:
    """A paired comparison of two versions on the same queries; differences are b minus a.

    Attributes:
        queries: events asked.
        users: distinct users among them.
        recall_a: Recall@50 of the first version.
        recall_b: Recall@50 of the second.
        ndcg_a: NDCG@50 of the first version.
        ndcg_b: NDCG@50 of the second.
        difference: recall_b - recall_a.
        low: lower end of its interval.
        high: upper end of its interval.
    """

    queries: int
    users: int
    recall_a: float
    recall_b: float
    ndcg_a: float
    ndcg_b: float
    difference: float
    low: float
    high: float

    def evidence(self) -> dict[str, Any]:
        """Plain numbers, rounded."""
        return {
            name: value if isinstance(value, int) else round(value, 6)
            for name, value in asdict(self).items()
        }


def compare(
    a: Retriever, b: Retriever, events: Sequence[UserSequence], confidence: float = 0.95
) -> Paired:
    """Ask two versions the same events, each as of its time; there must be at least one."""
    gains_a, gains_b = gains(a, events), gains(b, events)
    users = np.array([s.user_id for s in events], np.int64)
    difference, low, high = interval(gains_b[:, 0] - gains_a[:, 0], users, confidence)
    recall_a, ndcg_a = gains_a.mean(axis=0).tolist()
    recall_b, ndcg_b = gains_b.mean(axis=0).tolist()
    count = len(np.unique(users))
    return Paired(len(events), count, recall_a, recall_b, ndcg_a, ndcg_b, difference, low, high)


def gains(retriever: Retriever, events: Sequence[UserSequence]) -> NDArray[np.float64]:
    """Recall@50 and NDCG@50 of each event: float64 (events, 2)."""
    items = retriever.items_for(
        [History(s.history_items, s.history_times) for s in events],
        np.array([s.event_time for s in events], np.int64),
        DEPTH,
    )
    targets = np.array([s.target for s in events], np.int64)
    found = ranks(items, targets)
    return np.stack([recall_gain(found, DEPTH), ndcg_gain(found, DEPTH)], axis=1)


def interval(
    differences: NDArray[np.float64], clusters: NDArray[np.int64], confidence: float
) -> tuple[float, float, float]:
    """Mean of paired differences and its normal interval with clustered variance.

    >>> interval(np.array([1.0, 1.0, 0.0, 0.0]), np.array([1, 1, 2, 2]), 0.95)[0]
    0.5
    """
    n = len(differences)
    mean = float(differences.mean())
    groups, place = np.unique(clusters, return_inverse=True)
    sums = np.bincount(place, differences - mean, len(groups))
    m = len(groups)
    if m < 2:
        return mean, float("-inf"), float("inf")
    deviation = float(np.sqrt((sums**2).sum() * m / (m - 1))) / n
    from scipy.stats import norm  # a quarter of a second, and only where something is judged

    half = float(norm.ppf(0.5 + confidence / 2)) * deviation
    return mean, mean - half, mean + half
