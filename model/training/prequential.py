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
from typing import TYPE_CHECKING, Protocol

import numpy as np

from model.evaluation.gains import ndcg_gain, recall_gain
from model.histories import NO_ROW, History
from model.tables.capacity import with_room
from model.tables.row_index import NO_ITEM, RowIndex
from model.tables.touched_rows import CHECKPOINT, TouchedRows
from streaming.events import UserSequence

if TYPE_CHECKING:
    from model.retrieval.retrieval_model import RetrievalModel

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

    def followed_by(self, model: RetrievalModel) -> Answerer:
        """The same over the model that was published next; it answers as one made anew."""


def _gains(ranks: np.ndarray) -> np.ndarray:
    """Ranks from 1, 0 for a miss (queries,) -> the four measures, float64 (queries, 4)."""
    return np.stack(
        [gain(ranks, cutoff) for gain in (recall_gain, ndcg_gain) for cutoff in (20, DEPTH)], axis=1
    )


def _targets(sequences: Sequence[UserSequence]) -> np.ndarray:
    return np.fromiter((s.target for s in sequences), np.int64, len(sequences))


class Prequential:
    """Counts items' events, judges answers, and keeps the metrics.

    `window` is in queries.
    """

    def __init__(self, window: int) -> None:
        self._window = window
        self._index = RowIndex()
        self._events = np.zeros(0, np.int64)
        self._answered_at = np.zeros(0, np.int64)
        self._head = np.zeros(0, np.bool_)
        self._touched = TouchedRows()
        self._queries = 0
        self._counts = np.zeros(len(SLICES), np.int64)
        self._sums = np.zeros((len(SLICES), len(_MEASURES)))
        self._ranks = np.zeros(window, np.int16)
        self._members = np.zeros((window, len(SLICES)), np.bool_)

    def changes(self, whole: bool) -> dict[str, np.ndarray]:
        """What changed since the last call, for `apply`; `whole`: everything."""
        rows = self._touched.take(CHECKPOINT)
        rows = np.arange(len(self._index)) if whole else rows
        return {
            "rows": rows,
            "ids": self._index.ids_N[rows],
            "events": self._events[rows],
            "answered_at": self._answered_at[rows],
            "head": self._head[rows],
        }

    def apply(self, changes: Mapping[str, np.ndarray]) -> None:
        """Take over what `changes` gave, on top of what was given before it."""
        rows = self._index.put(changes.get("rows"), changes["ids"])
        self._make_room()
        self._events[rows] = changes["events"]
        self._answered_at[rows] = changes["answered_at"]
        self._head[rows] = changes["head"]
        self._touched.take(CHECKPOINT)

    def figures(self) -> dict[str, np.ndarray]:
        """What does not grow with the catalogue: sums and the sliding window, for `load`."""
        return {
            "counts": self._counts,
            "sums": self._sums,
            "ranks": self._ranks,
            "members": self._members,
        }

    def load(self, figures: Mapping[str, np.ndarray]) -> None:
        """Take over what `figures` gave; a window of another length begins anew."""
        self._counts, self._sums = figures["counts"].copy(), figures["sums"].copy()
        self._queries = int(self._counts[0])
        if len(figures["ranks"]) == self._window:
            self._ranks, self._members = figures["ranks"].copy(), figures["members"].copy()

    def list_items(self, items: Iterable[int]) -> None:
        """Add items to the catalogue; known ones are left as they are."""
        self._rows(np.fromiter(items, np.int64))

    def knows(self, items: np.ndarray) -> np.ndarray:
        """Whether items (n,) are in the catalogue: bool (n,)."""
        return self._index.rows(items) != NO_ROW

    def _rows(self, items: np.ndarray) -> np.ndarray:
        """Rows of items; new ones join the catalogue."""
        rows = self._index.rows(items)
        if (new := rows == NO_ROW).any():
            rows = self._index.add(items)
            self._make_room()
            self._touched.mark(rows[new])
        return rows

    def _make_room(self) -> None:
        size = len(self._index)
        self._events = with_room(self._events, size)
        self._answered_at = with_room(self._answered_at, size)
        self._head = with_room(self._head, size)

    def forget(self, items: np.ndarray) -> None:
        """Items (n,) are not in the catalogue any more."""
        rows = self._index.remove(items)
        self._events[rows], self._answered_at[rows], self._head[rows] = 0, 0, False
        self._touched.mark(rows)

    def learn(self, sequences: Sequence[UserSequence]) -> None:
        """Count the events of targets, after they were answered."""
        rows = self._rows(_targets(sequences))
        np.add.at(self._events, rows, 1)
        self._touched.mark(rows)

    def fix_head(self) -> None:
        """Take the head of the catalogue anew: floor(0.2 n) items, ties by ascending id."""
        n, rows = len(self._index), np.flatnonzero(self._index.ids_N != NO_ITEM)
        head, ids, events = np.zeros(n, np.bool_), self._index.ids_N, self._events[rows]
        if wanted := len(rows) // 5:
            least = np.partition(events, len(rows) - wanted)[len(rows) - wanted]
            head[rows[events > least]] = True
            ties = rows[events == least]
            left = wanted - int(head.sum())
            head[ties[np.argpartition(ids[ties], left - 1)[:left]]] = True
        self._touched.mark(np.flatnonzero(head != self._head[:n]))
        self._head[:n] = head

    def judge(self, queries: Sequence[UserSequence], items_BK: np.ndarray) -> None:
        """Compare answers, int64 (B, K) padded with -1, with the targets of their queries."""
        targets = _targets(queries)
        rows = self._rows(targets)
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
        answered = self._index.rows(np.unique(items_BK[:, :DEPTH]))
        known = answered[answered != NO_ROW]
        self._answered_at[known] = self._queries
        self._touched.mark(known)

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
        if self._queries and self._index.count:
            answered_at = self._answered_at[: len(self._index)]
            found["coverage_at_50"] = float((answered_at > 0).sum() / self._index.count)
            recent = answered_at > max(0, self._queries - self._window)
            found["window_coverage_at_50"] = float(recent.sum() / self._index.count)
        return found

    @staticmethod
    def _shares(prefix: str, counts: np.ndarray, sums: np.ndarray) -> dict[str, float]:
        return {
            f"{prefix}{name}{measure}": float(sums[s, m] / counts[s])
            for s, name in enumerate(SLICES)
            if counts[s]
            for m, measure in enumerate(_MEASURES)
        }
