"""Which row an id has, for millions of ids: arrays instead of a dictionary.

Three arrays take 20 bytes an id in all, a dictionary of Python's integers some 130. Ids that came
lately wait in a small dictionary, and are merged into the sorted arrays from time to time.
Rows that were freed are given again, the lowest first, so that who frees rows has no more of them
than there ever were ids at once. Which row comes next follows from the rows that are free alone.
Shapes: N rows, n ids at hand.
"""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from model.histories import NO_ROW
from model.tables.capacity import with_room

MERGE_AT = 65_536
NO_ITEM = -1
"""What stands in the place of an id where a row is free."""


class RowIndex:
    """Gives each new id a free row, or else the next one; ids are not negative.

    >>> index = RowIndex()
    >>> index.add(np.array([70, 50, 70])).tolist(), index.add(np.array([60, 50])).tolist()
    ([0, 1, 0], [2, 1])
    >>> index.rows(np.array([[50, 99]])).tolist(), index.ids_N.tolist()
    ([[1, -1]], [70, 50, 60])
    >>> index.remove(np.array([70, 60, 99])).tolist(), index.ids_N.tolist(), index.count
    ([0, 2], [-1, 50, -1], 1)
    >>> index.add(np.array([80, 90, 100])).tolist(), len(index)
    ([0, 2, 3], 4)
    """

    def __init__(self) -> None:
        self._size = 0
        self._ids = np.zeros(0, np.int64)
        self._sorted = np.zeros(0, np.int64)
        self._row_of_sorted = np.zeros(0, np.int32)  # `NO_ROW`: removed since
        self._recent: dict[int, int] = {}
        self._free: list[int] = []  # a heap

    def __len__(self) -> int:
        """Rows, free ones among them."""
        return self._size

    @property
    def count(self) -> int:
        """Ids."""
        return self._size - len(self._free)

    @property
    def ids_N(self) -> NDArray[np.int64]:
        """Ids in row order; `NO_ITEM` where a row is free."""
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
        """Rows (n,) of ids; those that are not known get one, in order."""
        rows_n = self.rows(ids_n)
        unknown = np.flatnonzero(rows_n == NO_ROW)
        if len(unknown) == 0:
            return rows_n
        distinct, first, inverse = np.unique(ids_n[unknown], return_index=True, return_inverse=True)
        order = np.argsort(first)
        given = np.empty(len(order), np.int64)
        given[order] = self._next_rows(len(order))
        rows_n[unknown] = given[inverse]
        self._give(given, distinct)
        return rows_n

    def remove(self, ids_n: NDArray[np.int64]) -> NDArray[np.int64]:
        """Free the rows of ids that are known; returns these rows, ascending."""
        ids_n = np.unique(ids_n)
        rows_n = self.rows(ids_n)
        known = rows_n != NO_ROW
        self._take_away(ids_n[known])
        freed = np.sort(rows_n[known])
        self._ids[freed] = NO_ITEM
        for row in freed.tolist():
            heapq.heappush(self._free, row)
        return freed

    def put(self, rows_n: NDArray[np.int64] | None, ids_n: NDArray[np.int64]) -> NDArray[np.int64]:
        """What `ids_N` of another index says of some rows, ascending, is so here, too.

        None: an earlier version, which freed no row, left them out. Returns the rows.
        """
        if rows_n is None:
            return self.add(ids_n)
        given = rows_n
        size = max(self._size, int(rows_n.max(initial=-1)) + 1)
        self._ids = with_room(self._ids, size)
        self._ids[self._size : size] = NO_ITEM
        self._size = size
        changed = self._ids[rows_n] != ids_n
        rows_n, ids_n = rows_n[changed], ids_n[changed]
        former = self._ids[rows_n]
        self._take_away(former[former != NO_ITEM])
        self._ids[rows_n] = ids_n
        there = ids_n != NO_ITEM
        self._give(rows_n[there], ids_n[there])
        self._free = np.flatnonzero(self.ids_N == NO_ITEM).tolist()  # ascending: a heap
        return given

    def _next_rows(self, count: int) -> NDArray[np.int64]:
        """Rows for so many new ids."""
        again = [heapq.heappop(self._free) for _ in range(min(count, len(self._free)))]
        end = self._size + count - len(again)
        rows = np.concatenate([np.array(again, np.int64), np.arange(self._size, end)])
        self._ids = with_room(self._ids, end)
        self._size = end
        return rows

    def _give(self, rows_n: NDArray[np.int64], ids_n: NDArray[np.int64]) -> None:
        self._ids[rows_n] = ids_n
        self._recent.update(zip(ids_n.tolist(), rows_n.tolist(), strict=True))
        if len(self._recent) >= MERGE_AT:
            self._merge()

    def _take_away(self, ids_n: NDArray[np.int64]) -> None:
        """Ids that are known are so no more."""
        if len(self._sorted) and len(ids_n):
            place = np.minimum(np.searchsorted(self._sorted, ids_n), len(self._sorted) - 1)
            self._row_of_sorted[place[self._sorted[place] == ids_n]] = NO_ROW
        for one in ids_n.tolist():
            self._recent.pop(one, None)

    def _merge(self) -> None:
        new = np.fromiter(self._recent, np.int64, len(self._recent))
        rows = np.fromiter(self._recent.values(), np.int32, len(self._recent))
        order = np.argsort(new)
        new, rows = new[order], rows[order]
        stay = self._row_of_sorted != NO_ROW
        self._sorted, self._row_of_sorted = self._sorted[stay], self._row_of_sorted[stay]
        places = np.searchsorted(self._sorted, new)
        self._sorted = np.insert(self._sorted, places, new)
        self._row_of_sorted = np.insert(self._row_of_sorted, places, rows)
        self._recent = {}
