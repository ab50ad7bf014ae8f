"""Every metric of the prequential table, from the log, the catalogue and the predictions.

Definitions: EVALUATION of the project. A query has one target; NDCG@K is 1 / log2(rank + 1) of a
target ranked within K, else 0; all are means over queries. The head is the floor(0.2 n) items
with the most events before the day (ties by ascending id), the tail is the rest. A user is cold
with 1 to 4 events before the day, an item with 0 to 4.

Shapes: R rows (queries), K items of an answer, N items of the catalogue.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model.evaluation import gains
from model.evaluation.predictions import Predictions
from model.evaluation.protocol import Events
from streaming.items import Item

HEAD_SHARE = 0.2
COLD_EVENTS = 4
CUTOFFS = (20, 50)

Report = dict[str, float | int | None]


def report(events: Events, items: Sequence[Item], predictions: Predictions) -> Report:
    """All metrics, and the number of queries in each slice (None for an empty slice).

    Args:
        events: the log, of which only what lies before a query's day is counted for it.
        items: the catalogue, ascending by id.
        predictions: answers that keep the protocol.
    """
    ids_N = np.array([item.item_id for item in items], dtype=np.int64)
    rank_R = gains.ranks(predictions.items_RK, predictions.targets_R)
    seen_R, head_R = target_popularity(events, ids_N, predictions)
    tail_R = ~head_R
    cold_user_R = predictions.history_lengths_R <= COLD_EVENTS
    cold_item_R = seen_R <= COLD_EVENTS
    shown_N = exposure(predictions.items_RK, ids_N)
    everything_R = np.ones(len(predictions), dtype=bool)
    last = CUTOFFS[-1]
    result: Report = {
        "queries": len(predictions),
        "days": len(np.unique(predictions.days_R)),
    }
    for name, gain in (("recall", gains.recall_gain), ("ndcg", gains.ndcg_gain)):
        result |= {f"{name}@{k}": _mean(gain(rank_R, k), everything_R) for k in CUTOFFS}
    recall_R = gains.recall_gain(rank_R, last)
    return result | {
        f"long_tail_recall@{last}": _mean(recall_R, tail_R),
        f"cold_user_recall@{last}": _mean(recall_R, cold_user_R),
        f"cold_user_ndcg@{last}": _mean(gains.ndcg_gain(rank_R, last), cold_user_R),
        f"cold_item_recall@{last}": _mean(recall_R, cold_item_R),
        f"coverage@{last}": float(np.count_nonzero(shown_N) / len(ids_N)),
        f"ild@{last}": intra_list_diversity(predictions.items_RK, items, ids_N),
        f"gini@{last}": gini(shown_N),
        "long_tail_queries": int(tail_R.sum()),
        "cold_user_queries": int(cold_user_R.sum()),
        "cold_item_queries": int(cold_item_R.sum()),
        "never_seen_item_queries": int((seen_R == 0).sum()),
    }


def target_popularity(
    events: Events, ids_N: np.ndarray, predictions: Predictions
) -> tuple[np.ndarray, np.ndarray]:
    """For each row: events of its target before the day, and whether the target is in the head."""
    slots_E = np.searchsorted(ids_N, events.items_E)
    days_E = events.days_E
    slots_R = np.searchsorted(ids_N, predictions.targets_R)
    counts_N = np.zeros(len(ids_N), dtype=np.int64)
    seen_R = np.zeros(len(predictions), dtype=np.int64)
    head_R = np.zeros(len(predictions), dtype=bool)
    head_size = int(HEAD_SHARE * len(ids_N))
    done = 0
    for day in np.unique(predictions.days_R):
        stop = int(np.searchsorted(days_E, day))
        counts_N += np.bincount(slots_E[done:stop], minlength=len(ids_N))
        done = stop
        in_head_N = np.zeros(len(ids_N), dtype=bool)
        in_head_N[np.argsort(-counts_N, kind="stable")[:head_size]] = True
        rows = predictions.days_R == day
        seen_R[rows] = counts_N[slots_R[rows]]
        head_R[rows] = in_head_N[slots_R[rows]]
    return seen_R, head_R


def exposure(items_RK: np.ndarray, ids_N: np.ndarray) -> np.ndarray:
    """How often each catalogue item stands in an answer, int64 (N,)."""
    return np.bincount(np.searchsorted(ids_N, items_RK).ravel(), minlength=len(ids_N))


def gini(counts_N: np.ndarray) -> float:
    """Gini coefficient of counts: 0 where all are equal, near 1 where one has them all.

    >>> gini(np.array([3, 3, 3])), round(gini(np.array([0, 0, 0, 8])), 2)
    (0.0, 0.75)
    """
    ordered_N = np.sort(counts_N).astype(np.float64)
    total, n = ordered_N.sum(), len(ordered_N)
    if not total:
        return 0.0
    return float((n + 1 - 2 * np.cumsum(ordered_N).sum() / total) / n)


def intra_list_diversity(
    items_RK: np.ndarray, items: Sequence[Item], ids_N: np.ndarray
) -> float | None:
    """Mean over answers of the share of item pairs whose categories differ."""
    if not len(items_RK):
        return None
    names = np.array([item.category for item in items])
    category_N = np.unique(names, return_inverse=True)[1]
    categories = int(category_N.max()) + 1
    width = items_RK.shape[1]
    same = 0.0
    for start in range(0, len(items_RK), 4096):  # bounds the memory of the counts
        part_RK = category_N[np.searchsorted(ids_N, items_RK[start : start + 4096])]
        row_R = np.arange(len(part_RK))[:, None] * categories
        counts = np.bincount((row_R + part_RK).ravel(), minlength=len(part_RK) * categories)
        same += float((counts * (counts - 1)).sum())
    return 1.0 - same / (len(items_RK) * width * (width - 1))


def _mean(gain_R: np.ndarray, rows_R: np.ndarray) -> float | None:
    return float(gain_R[rows_R].mean()) if rows_R.any() else None
