"""Every event a peer has learnt, as training examples: a target and what its user took before.

Shapes: E events, X examples, L history length.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from model.histories import HistoryBatch, scatter_right
from streaming.events import HISTORY_LENGTH


class Timeline:
    """Events in the order of learning; each can be asked for its history again and again."""

    def __init__(self) -> None:
        self._rows: defaultdict[int, list[int]] = defaultdict(list)
        self._times: defaultdict[int, list[int]] = defaultdict(list)
        self._users_E = np.empty(0, dtype=np.int64)
        self._before_E = np.empty(0, dtype=np.int64)
        self.targets_E = np.empty(0, dtype=np.int64)
        self.times_E = np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.targets_E)

    def append(self, users_E: np.ndarray, rows_E: np.ndarray, times_E: np.ndarray) -> np.ndarray:
        """Add events in canonical order; returns their numbers, to be used as examples."""
        before = []
        for user, row, time in zip(
            users_E.tolist(), rows_E.tolist(), times_E.tolist(), strict=True
        ):
            rows = self._rows[user]
            before.append(len(rows))
            rows.append(row)
            self._times[user].append(time)
        first = len(self)
        self._users_E = np.concatenate([self._users_E, users_E])
        self._before_E = np.concatenate([self._before_E, np.array(before, dtype=np.int64)])
        self.targets_E = np.concatenate([self.targets_E, rows_E])
        self.times_E = np.concatenate([self.times_E, times_E])
        return np.arange(first, len(self))

    def histories(self, examples_X: np.ndarray) -> HistoryBatch:
        """What the user of each example took before it, the newest 50, aligned to the right.

        Events of the same day that stand before the example are part of its history: a basket is
        the strongest sign that two items belong together.
        """
        rows: list[int] = []
        times: list[int] = []
        lengths = []
        users, before = self._users_E[examples_X].tolist(), self._before_E[examples_X].tolist()
        for user, stop in zip(users, before, strict=True):
            start = max(0, stop - HISTORY_LENGTH)
            rows += self._rows[user][start:stop]
            times += self._times[user][start:stop]
            lengths.append(stop - start)
        owner_E = np.repeat(np.arange(len(lengths)), lengths)
        return scatter_right(len(lengths), owner_E, np.array(rows, dtype=np.int64), np.array(times))
