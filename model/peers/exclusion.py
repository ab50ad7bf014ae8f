"""Turn scores of the whole catalogue into answers: the history out, the best 50 in order.

Shapes: B queries, N items of the catalogue, K items of an answer.
"""

from __future__ import annotations

import numpy as np

from model.evaluation.online_model import Answers
from model.evaluation.protocol import LIST_LENGTH
from model.histories import History


def best(ids_N: np.ndarray, scores_BN: np.ndarray, histories: list[History]) -> Answers:
    """The best items outside each user's history; equal scores by ascending id.

    Args:
        ids_N: item ids, ascending.
        scores_BN: finite scores, float32 or float64; entries of excluded items are overwritten.
        histories: all events of each user.
    """
    for row_N, history in zip(scores_BN, histories, strict=True):
        row_N[np.searchsorted(ids_N, history.items)] = -np.inf
    rows_B1 = np.arange(len(scores_BN))[:, None]
    # Partition finds the K best but breaks ties at the edge by its own inner order, so everything
    # that ties with the K-th score is looked at again, in the order of ids.
    top_BK = np.argpartition(-scores_BN, LIST_LENGTH - 1, axis=1)[:, :LIST_LENGTH]
    edge_B = scores_BN[rows_B1, top_BK].min(axis=1)
    for b in np.flatnonzero(np.count_nonzero(scores_BN >= edge_B[:, None], axis=1) > LIST_LENGTH):
        above = np.flatnonzero(scores_BN[b] > edge_B[b])
        tied = np.flatnonzero(scores_BN[b] == edge_B[b])[: LIST_LENGTH - len(above)]
        top_BK[b] = np.concatenate([above, tied])
    top_BK.sort(axis=1)
    order_BK = np.argsort(-scores_BN[rows_B1, top_BK], axis=1, kind="stable")
    top_BK = top_BK[rows_B1, order_BK]
    return Answers(ids_N[top_BK], scores_BN[rows_B1, top_BK].astype(np.float32))
