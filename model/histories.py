"""Histories of users, from lists of ids to padded arrays.

Shapes: B users, L history length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from streaming.events import HISTORY_LENGTH

NO_ROW = -1
"""Row of an item that the model does not know."""

RowLookup = Callable[[np.ndarray], np.ndarray]
"""Item ids (any shape, int64) -> catalogue rows of the same shape, `NO_ROW` where unknown."""


class History(NamedTuple):
    """What a user clicked, oldest first: item ids, and times in milliseconds."""

    items: list[int]
    times: list[int]


class HistoryBatch(NamedTuple):
    """Histories as arrays, newest event last and aligned to the right.

    Attributes:
        rows_BL: catalogue rows, int64; `NO_ROW` is padding.
        times_BL: times in milliseconds, int64; 0 where padded.
    """

    rows_BL: np.ndarray
    times_BL: np.ndarray

    @property
    def known_BL(self) -> np.ndarray:
        """True where there is an item."""
        return self.rows_BL != NO_ROW


def pad_histories(histories: Sequence[History], rows_of: RowLookup) -> HistoryBatch:
    """Pad to the longest history (at least 1, at most `HISTORY_LENGTH` of the newest events).

    Unknown items leave no trace: the known ones move together, so that a history with an unknown
    item equals the same history without it.

    >>> lookup = lambda ids: np.where(ids < 10, ids, NO_ROW)
    >>> pad_histories([History([3, 77, 5], [1, 2, 3]), History([], [])], lookup).rows_BL
    array([[ 3,  5],
           [-1, -1]])
    """
    lengths_B = np.fromiter((len(h.items) for h in histories), np.int64, len(histories))
    total = int(lengths_B.sum())
    flat_rows = rows_of(np.fromiter((i for h in histories for i in h.items), np.int64, total))
    flat_times = np.fromiter((t for h in histories for t in h.times), np.int64, total)
    owner = np.repeat(np.arange(len(histories)), lengths_B)
    keep = flat_rows != NO_ROW
    return scatter_right(len(histories), owner[keep], flat_rows[keep], flat_times[keep])


def scatter_right(
    batch: int, owner_E: np.ndarray, rows_E: np.ndarray, times_E: np.ndarray
) -> HistoryBatch:
    """Lay out a flat list of E history events, sorted by owner, aligned to the right."""
    counts_B = np.bincount(owner_E, minlength=batch)
    length = min(HISTORY_LENGTH, max(1, int(counts_B.max(initial=1))))
    ends_B = np.cumsum(counts_B)
    from_end_E = ends_B[owner_E] - 1 - np.arange(len(owner_E))
    recent = from_end_E < length
    rows_BL = np.full((batch, length), NO_ROW, dtype=np.int64)
    times_BL = np.zeros((batch, length), dtype=np.int64)
    column_E = length - 1 - from_end_E[recent]
    rows_BL[owner_E[recent], column_E] = rows_E[recent]
    times_BL[owner_E[recent], column_E] = times_E[recent]
    return HistoryBatch(rows_BL, times_BL)
