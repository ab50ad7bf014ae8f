"""Prequential quality: each micro-batch is first answered, then learnt.

Answers come from the model of the last handover, that is, from what a user could have been
served. A query is a sequence with at least one event in its history; its target is the one
relevant item. The definitions follow the evaluation protocol, with "before the day" read as
"before the event" and the head of the catalogue fixed at each handover:

    Recall@K, NDCG@K   hit among the first K; 1 / log2(rank + 1)
    long tail          target not among the 20 % of catalogue items with the most events
    cold user          1 to 4 events before
    cold item          target has 0 to 4 events before
    coverage@50        share of catalogue items in at least one answer

Everything is kept twice: since the beginning, and over a sliding window of the last queries.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from model.evaluation.gains import ndcg_gain, recall_gain
from model.histories import History
from streaming.events import UserSequence

DEPTH = 50
"""Items per answer."""
COLD = 4
SLICES = ("", "long_tail_", "cold_user_", "cold_item_")
_MEASURES = ("recall_at_20", "recall_at_50", "ndcg_at_20", "ndcg_at_50")


class Answerer(Protocol):
    """The served path: soft search over one published model."""

    def answer(
        self,
        histories: Sequence[History],
        now_ms: np.ndarray,
        k: int,
        exclude_history: bool = True,
    ) -> np.ndarray:
        """The best items of each user, best first: int64 (B, k), padded with -1.

        `now_ms` is int64 (B,), the time of each query.
        """


def _gains(ranks: np.ndarray) -> np.ndarray:
    """Ranks from 1, 0 for a miss (queries,) -> the four measures, float64 (queries, 4)."""
    return np.stack(
        [gain(ranks, cutoff) for gain in (recall_gain, ndcg_gain) for cutoff in (20, DEPTH)], axis=1
    )


class Prequential:
    """Counts items' events, judges answers, and keeps the metrics.

    `arrays` holds the state of `arrays()` to go on from. `window` is in queries.
    """

    def __init__(self, window: int, arrays: Mapping[str, np.ndarray] | None = None) -> None:
        self._window = window
        if arrays is None:
            self._ids = np.empty(0, np.int64)
            self._events = np.empty(0, np.int64)
            self._answered_at = np.empty(0, np.int64)
            self._head = np.empty(0, np.bool_)
            self._queries = 0
            self._counts = np.zeros(len(SLICES), np.int64)
            self._sums = np.zeros((len(SLICES), len(_MEASURES)))
            self._ranks = np.zeros(window, np.int16)
            self._members = np.zeros((window, len(SLICES)), np.bool_)
        else:
            self._ids, self._events = arrays["ids"].copy(), arrays["events"].copy()
            self._answered_at, self._head = arrays["answered_at"].copy(), arrays["head"].copy()
            self._counts, self._sums = arrays["counts"].copy(), arrays["sums"].copy()
            self._queries = int(self._counts[0])
            self._ranks, self._members = arrays["ranks"].copy(), arrays["members"].copy()
            if len(self._ranks) != window:  # the window was configured anew: begin it anew
                self._ranks = np.zeros(window, np.int16)
                self._members = np.zeros((window, len(SLICES)), np.bool_)
        self._rows = {int(item): row for row, item in enumerate(self._ids)}

    def arrays(self) -> dict[str, np.ndarray]:
        """State for a checkpoint."""
        n = len(self._rows)
        return {
            "ids": self._ids[:n],
            "events": self._events[:n],
            "answered_at": self._answered_at[:n],
            "head": self._head[:n],
            "counts": self._counts,
            "sums": self._sums,
            "ranks": self._ranks,
            "members": self._members,
        }

    def list_items(self, items: Iterable[int]) -> None:
        """Add items to the catalogue; known ones are left as they are."""
        for item in items:
            self._row(item)

    def knows(self, item: int) -> bool:
        """Whether an item is in the catalogue."""
        return item in self._rows

    def _row(self, item: int) -> int:
        row = self._rows.setdefault(item, len(self._rows))
        if row == len(self._ids):
            more = max(1024, row)
            self._ids = np.concatenate([self._ids, np.zeros(more, np.int64)])
            self._events = np.concatenate([self._events, np.zeros(more, np.int64)])
            self._answered_at = np.concatenate([self._answered_at, np.zeros(more, np.int64)])
            self._head = np.concatenate([self._head, np.zeros(more, np.bool_)])
        self._ids[row] = item
        return row

    def learn(self, sequences: Iterable[UserSequence]) -> None:
        """Count the events of targets, after they were answered."""
        for sequence in sequences:
            row = self._row(sequence.target)  # may replace the arrays
            self._events[row] += 1

    def fix_head(self) -> None:
        """Take the head of the catalogue anew: floor(0.2 n) items, ties by ascending id."""
        n = len(self._rows)
        order = np.lexsort((self._ids[:n], -self._events[:n]))
        self._head[:] = False
        self._head[order[: n // 5]] = True

    def judge(self, queries: Sequence[UserSequence], items_BK: np.ndarray) -> None:
        """Compare answers, int64 (B, K) padded with -1, with the targets of their queries."""
        rows = np.array([self._row(q.target) for q in queries], np.int64)
        targets = np.array([q.target for q in queries], np.int64)
        hits = (items_BK[:, :DEPTH] == targets[:, None]) & (items_BK[:, :DEPTH] >= 0)
        ranks = np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, 0)
        before = np.array([q.position - 1 for q in queries], np.int64)
        members = np.stack(
            [
                np.ones(len(queries), np.bool_),
                ~self._head[rows],
                (before >= 1) & (before <= COLD),
                self._events[rows] <= COLD,
            ],
            axis=1,
        )
        self._counts += members.sum(axis=0)
        self._sums += members.astype(np.float64).T @ _gains(ranks)
        places = (self._queries + np.arange(len(queries))) % self._window
        self._ranks[places], self._members[places] = ranks, members
        self._queries += len(queries)
        answered = np.unique(items_BK[:, :DEPTH])
        known = [row for i in answered.tolist() if (row := self._rows.get(i)) is not None]
        self._answered_at[known] = self._queries

    def metrics(self) -> dict[str, float]:
        """The metrics so far, names as in the module's table; a slice without query is left out.

        Those of the sliding window have "window_" before their name; its coverage reaches back
        to the end of the batch in which the window begins.
        """
        filled = min(self._queries, self._window)
        members = self._members[:filled]
        gains = _gains(self._ranks[:filled])
        found: dict[str, float] = {"queries": float(self._queries)}
        found |= self._shares("", self._counts, self._sums)
        found |= self._shares("window_", members.sum(axis=0), members.astype(np.float64).T @ gains)
        n = len(self._rows)
        if self._queries and n:
            answered_at = self._answered_at[:n]
            found["coverage_at_50"] = float((answered_at > 0).mean())
            recent = answered_at > max(0, self._queries - self._window)
            found["window_coverage_at_50"] = float(recent.mean())
        return found

    @staticmethod
    def _shares(prefix: str, counts: np.ndarray, sums: np.ndarray) -> dict[str, float]:
        return {
            f"{prefix}{name}{measure}": float(sums[s, m] / counts[s])
            for s, name in enumerate(SLICES)
            if counts[s]
            for m, measure in enumerate(_MEASURES)
        }
