"""How often items had events, for those that had any.

In a large catalogue nearly none has: of a million items some ten thousands. What has no row here
had none.

Shapes: e items that had events, N rows of the catalogue, n rows at hand, H half-lives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.tables.decayed_counts import decayed, log_counts

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class ItemCounts:
    """Counts of some catalogue rows; immutable.

    Attributes:
        rows_e: int32 rows, ascending, each once.
        events_e: int64 events so far.
        counts_eH: float64, decayed to `times_e`.
        times_e: int64 ms.

    >>> one, two = np.array([[1.0]]), np.array([[2.0]])
    >>> counts = ItemCounts.none(1).followed_by(np.array([7]), np.array([3]), one, np.array([9]))
    >>> counts = counts.followed_by(np.array([2]), np.array([5]), two, np.array([9]))
    >>> counts.rows_e.tolist(), counts.events(np.array([7, 1, 2])).tolist()
    ([2, 7], [3, 0, 5])
    """

    rows_e: NDArray[np.int32]
    events_e: Rows
    counts_eH: NDArray[np.float64]
    times_e: Rows

    @classmethod
    def none(cls, half_lives: int) -> ItemCounts:
        """Nothing had events."""
        nothing = np.empty(0, np.int64)
        return cls(nothing.astype(np.int32), nothing, np.empty((0, half_lives)), nothing)

    def followed_by(
        self, rows_m: Rows, events_m: Rows, counts_mH: NDArray[np.float64], times_m: Rows
    ) -> ItemCounts:
        """What is known once other counts of some rows, ascending, are said."""
        if not len(rows_m):
            return self
        rows = np.union1d(self.rows_e, rows_m.astype(np.int32))
        before, said = np.searchsorted(rows, self.rows_e), np.searchsorted(rows, rows_m)
        new: dict[str, Any] = {"rows_e": rows}
        for field, values in zip(fields(self)[1:], (events_m, counts_mH, times_m), strict=True):
            old = getattr(self, field.name)
            new[field.name] = column = np.empty((len(rows), *old.shape[1:]), old.dtype)
            column[before] = old
            column[said] = values
        return ItemCounts(**new)

    def without(self, rows_g: Rows) -> ItemCounts:
        """What is known once some rows have had none."""
        stay = ~np.isin(self.rows_e, rows_g)
        if stay.all():
            return self
        return ItemCounts(*(getattr(self, field.name)[stay] for field in fields(self)))

    def events(self, rows_n: NDArray[np.integer]) -> Rows:
        """How many events items had, int64 (n,)."""
        return self._of(self.events_e, rows_n)

    def times(self, rows_n: NDArray[np.integer]) -> Rows:
        """When items had their last event, int64 ms (n,); 0 for none."""
        return self._of(self.times_e, rows_n)

    def _of(self, values_e: Rows, rows_n: NDArray[np.integer]) -> Rows:
        if not len(self.rows_e):
            return np.zeros(len(rows_n), np.int64)
        at = np.searchsorted(self.rows_e, rows_n).clip(max=len(self.rows_e) - 1)
        return np.where(self.rows_e[at] == rows_n, values_e[at], 0)

    def events_N(self, size: int) -> Rows:
        """The same of all rows of a catalogue of N items."""
        events_N = np.zeros(size, np.int64)
        events_N[self.rows_e] = self.events_e
        return events_N

    def prior(
        self, half_lives_days: Sequence[float], clock_ms: int
    ) -> tuple[Rows, NDArray[np.float32]]:
        """Rows (e,) of the items that had events, ascending, and their popularity features then.

        The features are float32 (e, H); those of all other items are 0.
        """
        had = self.events_e > 0
        now_eH = decayed(self.counts_eH[had], self.times_e[had], clock_ms, half_lives_days)
        return self.rows_e[had].astype(np.int64), log_counts(now_eH)
