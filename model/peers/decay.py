"""Counts of events per item that fade with time.

A count is kept as of the day of its last change and faded when it is read ("lazily"). Growing
the weight of new events instead would be the same arithmetic, but overflows at short half-lives.
Shapes: E events, N items.
"""

from __future__ import annotations

import numpy as np


class DecayedCounts:
    """Events of each item, halved every `half_life` days.

    >>> counts = DecayedCounts(items=2, half_life=7.0)
    >>> counts.add(np.array([0, 0, 1]), day=100)
    >>> counts.at(day=107)
    array([1. , 0.5])
    """

    def __init__(self, items: int, half_life: float) -> None:
        self._half_life = half_life
        self._counts_N = np.zeros(items)
        self._day = 0

    def at(self, day: int) -> np.ndarray:
        """Counts faded to a day that is not before the last event, float64 (N,)."""
        return self._counts_N * 2.0 ** ((self._day - day) / self._half_life)

    def add(self, rows_E: np.ndarray, day: int) -> None:
        """Count events of one day; days must not descend."""
        self._counts_N = self.at(day)
        self._counts_N += np.bincount(rows_E, minlength=len(self._counts_N))
        self._day = day

    def add_all(self, rows_E: np.ndarray, days_E: np.ndarray) -> None:
        """Count events of many days; `days_E` must not descend."""
        days, starts = np.unique(days_E, return_index=True)
        for day, rows in zip(days.tolist(), np.split(rows_E, starts[1:]), strict=True):
            self.add(rows, day)
