"""Which row an id has, for millions of ids: arrays instead of a dictionary.

Three arrays take 20 bytes an id in all, a dictionary of Python's integers some 130. Ids that came
lately wait in a small dictionary, and are merged into the sorted arrays from time to time.
Shapes: N ids, n ids at hand.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.histories import NO_ROW
from model.tables.capacity import with_room

MERGE_AT = 65_536


class RowIndex:
    """Gives each new id the next row.

    >>> index = RowIndex()
    >>> index.add(np.array([70, 50, 70])).tolist(), index.add(np.array([60, 50])).tolist()
    ([0, 1, 0], [2, 1])
    >>> index.rows(np.array([[50, 99]])).tolist(), index.ids_N.tolist()
    ([[1, -1]], [70, 50, 60])
    """

    def __init__(self) -> None:
        self._size = 0
        self._ids = np.zeros(0, np.int64)
        self._sorted = np.zeros(0, np.int64)
        self._row_of_sorted = np.zeros(0, np.int32)
        self._recent: dict[int, int] = {}

    def __len__(self) -> int:
        return self._size

    @property
    def ids_N(self) -> NDArray[np.int64]:
        """Ids in row order."""
        return self._ids[: self._size]

    def rows(self, ids: NDArray[np.integer]) -> NDArray[np.int64]:
        """Rows of ids, in the same shape; `NO_ROW` where an id is unknown."""
        flat = ids.ravel()
        rows = np.full(len(flat), NO_ROW, np.int64)
        if len(self._sorted):
            place = np.minimum(np.searchsorted(self._sorted, flat), len(self._sorted) - 1)
            known = self._sorted[place] == flat
            rows[known] = self._row_of_sorted[place[known]]
        if self._recent:
            rest = np.flatnonzero(rows == NO_ROW)
            get = self._recent.get
            found = (get(i, NO_ROW) for i in flat[rest].tolist())
            rows[rest] = np.fromiter(found, np.int64, len(rest))
        return rows.reshape(ids.shape)

    def add(self, ids_n: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows (n,) of ids; those that are not known get the next ones, in order."""
        rows_n = self.rows(ids_n)
        unknown = np.flatnonzero(rows_n == NO_ROW)
        if len(unknown) == 0:
            return rows_n
        distinct, first, inverse = np.unique(ids_n[unknown], return_index=True, return_inverse=True)
        order = np.argsort(first)
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(self._size, self._size + len(order))
        rows_n[unknown] = rank[inverse]
        end = self._size + len(distinct)
        self._ids = with_room(self._ids, end)
        self._ids[self._size : end] = distinct[order]
        self._recent.update(zip(distinct.tolist(), rank.tolist(), strict=True))
        self._size = end
        if len(self._recent) >= MERGE_AT:
            self._merge()
        return rows_n

    def _merge(self) -> None:
        first = len(self._sorted)
        order = np.argsort(self._ids[first : self._size])
        new = self._ids[first : self._size][order]
        places = np.searchsorted(self._sorted, new)
        self._sorted = np.insert(self._sorted, places, new)
        self._row_of_sorted = np.insert(self._row_of_sorted, places, first + order)
        self._recent = {}
