"""Metrics over the weeks of an evaluation, so that one sees when a model was good.

Weeks are counted from the first day that has a query; a week without queries is left out.
Shapes: R rows (queries), W weeks, K items of an answer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model.evaluation import gains, metrics
from model.evaluation.predictions import Predictions
from model.evaluation.protocol import Events
from streaming.items import Item

Curve = list[dict[str, float | int]]
"""Entries with `day` (first of the week, days since 1970-01-01), `queries` and `value`."""

DAYS = 7


def weekly(events: Events, items: Sequence[Item], predictions: Predictions) -> dict[str, Curve]:
    """Curves of the metrics of `metrics.report`; `coverage@50` is that of all weeks so far."""
    if not len(predictions):
        return {}
    ids_N = np.array([item.item_id for item in items], dtype=np.int64)
    rank_R = gains.ranks(predictions.items_RK, predictions.targets_R)
    seen_R, head_R = metrics.target_popularity(events, ids_N, predictions)
    cold_user_R = predictions.history_lengths_R <= metrics.COLD_EVENTS
    every_R = np.ones(len(predictions), dtype=bool)
    recall_R, ndcg_R = gains.recall_gain(rank_R, 50), gains.ndcg_gain(rank_R, 50)
    days_R = predictions.days_R
    return {
        "recall@20": by_week(days_R, gains.recall_gain(rank_R, 20), every_R),
        "recall@50": by_week(days_R, recall_R, every_R),
        "ndcg@50": by_week(days_R, ndcg_R, every_R),
        "long_tail_recall@50": by_week(days_R, recall_R, ~head_R),
        "cold_user_recall@50": by_week(days_R, recall_R, cold_user_R),
        "cold_user_ndcg@50": by_week(days_R, ndcg_R, cold_user_R),
        "cold_item_recall@50": by_week(days_R, recall_R, seen_R <= metrics.COLD_EVENTS),
        "coverage@50": coverage(predictions, len(ids_N)),
    }


def by_week(days_R: np.ndarray, value_R: np.ndarray, rows_R: np.ndarray) -> Curve:
    """Weekly means of the values of some rows; weeks are counted from the first row of all.

    >>> by_week(np.array([3, 4, 10]), np.array([1.0, 0.0, 1.0]), np.array([True, True, True]))
    [{'day': 3, 'queries': 2, 'value': 0.5}, {'day': 10, 'queries': 1, 'value': 1.0}]
    """
    if not len(days_R):
        return []
    first = int(days_R.min())
    week_R = (days_R[rows_R] - first) // DAYS
    counts_W = np.bincount(week_R)
    sums_W = np.bincount(week_R, weights=value_R[rows_R])
    return [
        {
            "day": first + DAYS * w,
            "queries": int(counts_W[w]),
            "value": float(sums_W[w] / counts_W[w]),
        }
        for w in np.flatnonzero(counts_W).tolist()
    ]


def coverage(predictions: Predictions, catalogue: int) -> Curve:
    """Share of the catalogue that was in some answer up to the end of each week."""
    first = int(predictions.days_R.min())
    week_R = (predictions.days_R - first) // DAYS
    shown, curve = np.empty(0, dtype=np.int64), []
    for w in np.unique(week_R).tolist():
        rows_R = week_R == w
        shown = np.union1d(shown, predictions.items_RK[rows_R])
        curve.append(
            {
                "day": first + DAYS * w,
                "queries": int(rows_R.sum()),
                "value": len(shown) / catalogue,
            }
        )
    return curve
