"""What an answer gains from where its one target stands, for every measure of the project.

Shapes: R rows (queries), K items of an answer.
"""

from __future__ import annotations

import numpy as np


def ranks(items_RK: np.ndarray, targets_R: np.ndarray) -> np.ndarray:
    """Rank of each target in its answer, from 1; 0 where it is absent.

    >>> ranks(np.array([[5, 3, 9], [5, 3, 9]]), np.array([3, 4]))
    array([2, 0])
    """
    hit_RK = items_RK == targets_R[:, None]
    return np.where(hit_RK.any(axis=1), hit_RK.argmax(axis=1) + 1, 0)


def recall_gain(rank_R: np.ndarray, cutoff: int) -> np.ndarray:
    """1 where the target is ranked within `cutoff`."""
    return ((rank_R > 0) & (rank_R <= cutoff)).astype(np.float64)


def ndcg_gain(rank_R: np.ndarray, cutoff: int) -> np.ndarray:
    """1 / log2(rank + 1) where the target is ranked within `cutoff`, else 0."""
    # 1.0: the logarithm of small integers would be of small floats
    return recall_gain(rank_R, cutoff) / np.log2(np.maximum(rank_R, 1) + 1.0)
