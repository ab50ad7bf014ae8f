"""The items of one code, ready for inner products: a matrix of vectors and the ids of its rows.

A list is immutable. One that changes shares its memory with the list that it was: new rows go
behind the old ones, where the old list does not look, and a row whose item left stays, as
*removed*, until there are too many of them. So a change costs what it changes.

Scores are matrix products, and faiss's flat search where that is quicker (one query, a long
list). Faiss sees arrays that were checked here, and parses no file.

Shapes: n rows of a list, D dimension, b queries.
"""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from indexer.errors import IndexerError

try:
    import faiss
except ImportError:  # a device machine without faiss still evaluates, by matrix products alone
    faiss = None  # type: ignore[assignment]

FAISS_FROM = 8192
"""From this length on faiss answers a single query quicker than a product and a partition
(16,000 x 66 dimensions on one core: 152 against 220 microseconds; 4,000: 29 against 31)."""
REMOVED_SHARE = 0.25
"""A list is copied without its removed rows when they are more than this share of its rows."""
ROOM_SHARE = 0.25
"""Room that a list is given to grow, of its rows."""
MAX_DIMENSION = 4096
MAX_ITEMS = 2**31 - 1


def checked_rows(
    item_ids: NDArray[np.int64], vectors: NDArray[np.float32], where: str
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Ids and vectors ascending by id, or an error that says what is wrong with them."""
    ids = np.ascontiguousarray(item_ids, np.int64)
    rows = np.ascontiguousarray(vectors, np.float32)
    if ids.ndim != 1 or rows.ndim != 2 or len(ids) != len(rows):
        raise IndexerError(f"{where}: ids {ids.shape} and vectors {rows.shape} do not match")
    if not 1 <= rows.shape[1] <= MAX_DIMENSION or len(ids) > MAX_ITEMS:
        raise IndexerError(f"{where}: absurd size {rows.shape}")
    # Where the sum of a row is finite, all of it is, and a sum is quicker than as many questions.
    if not np.isfinite(rows.sum(axis=1)).all() and not (finite := np.isfinite(rows).all(1)).all():
        raise IndexerError(f"{where}: the vector of item {ids[~finite][0]} is not finite")
    if len(ids) > 1 and not (ids[1:] > ids[:-1]).all():
        order = np.argsort(ids, kind="stable")
        ids, rows = ids[order], rows[order]
        if (ids[1:] == ids[:-1]).any():
            raise IndexerError(
                f"{where}: item {ids[1:][ids[1:] == ids[:-1]][0]} is there more than once"
            )
    return ids, rows


class _Memory:
    """Room for the rows of a list and of those that grow from it."""

    def __init__(self, room: int, dimension: int) -> None:
        self.ids = np.empty(room, np.int64)
        self.vectors = np.empty((room, dimension), np.float32)
        self.read_ids, self.read_vectors = self.ids.view(), self.vectors.view()
        self.read_ids.flags.writeable = self.read_vectors.flags.writeable = False
        self._used = 0
        self._alone = threading.Lock()

    def claim(self, first: int, count: int) -> bool:
        """Take the rows from `first` on; False if they are taken or there are too few."""
        if not count:
            return True
        with self._alone:
            if first != self._used or first + count > len(self.ids):
                return False
            self._used += count
            return True


def _room(count: int) -> int:
    return count + int(count * ROOM_SHARE) + 16


NO_ROWS = np.empty(0, np.int64)


class CodeList:
    """The items of one code: immutable ids (n,) int64 and vectors (n, D) float32 of its rows.

    Ids ascend, but for items that were appended. The rows `removed`, in no order, hold items that
    have left; `len` counts those that are there.
    """

    __slots__ = ("_memory", "item_ids", "removed", "vectors")

    def __init__(
        self, item_ids: NDArray[np.int64], vectors: NDArray[np.float32], where: str = "list"
    ) -> None:
        self._fill(*checked_rows(item_ids, vectors, where))

    @classmethod
    def of_checked(cls, ids: NDArray[np.int64], rows: NDArray[np.float32]) -> CodeList:
        """A list of rows that are known to be distinct and finite."""
        one = cls.__new__(cls)
        one._fill(ids, rows)
        return one

    def _fill(self, ids: NDArray[np.int64], rows: NDArray[np.float32]) -> None:
        """Copy rows into memory with room to grow."""
        memory = _Memory(_room(len(ids)), rows.shape[1])
        memory.claim(0, len(ids))
        memory.ids[: len(ids)], memory.vectors[: len(ids)] = ids, rows
        self._show(memory, len(ids), NO_ROWS)

    def _show(self, memory: _Memory, count: int, removed: NDArray[np.int64]) -> None:
        self._memory, self.removed = memory, removed
        self.item_ids, self.vectors = memory.read_ids[:count], memory.read_vectors[:count]

    def __len__(self) -> int:
        return len(self.item_ids) - len(self.removed)

    @property
    def is_long(self) -> bool:
        """Whether `best` is quicker than the scores of all rows."""
        return len(self.item_ids) >= FAISS_FROM

    @property
    def present_ids(self) -> NDArray[np.int64]:
        """Ids by row, -1 where the item was removed."""
        if not len(self.removed):
            return self.item_ids
        ids = self.item_ids.copy()
        ids[self.removed] = -1
        return ids

    def packed(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Ids and vectors without the rows that are removed."""
        if not len(self.removed):
            return self.item_ids, self.vectors
        stay = np.delete(np.arange(len(self.item_ids)), self.removed)
        return self.item_ids[stay], self.vectors[stay]

    def changed(
        self,
        leaving: NDArray[np.int64],
        ids: NDArray[np.int64],
        vectors: NDArray[np.float32],
    ) -> CodeList:
        """The items of some rows leave, and others, with finite vectors, come behind the last.

        Where the rows are copied, because too many are removed, the memory is full, or another list
        grew from this one, those that stay are numbered anew and none is removed.
        """
        removed = np.concatenate([self.removed, leaving]) if len(leaving) else self.removed
        before, after = len(self.item_ids), len(self.item_ids) + len(ids)
        few = len(removed) <= before * REMOVED_SHARE
        after_it = CodeList.__new__(CodeList)
        if few and self._memory.claim(before, len(ids)):
            self._memory.ids[before:after] = ids
            self._memory.vectors[before:after] = vectors
            after_it._show(self._memory, after, removed)
            return after_it
        stay = np.delete(np.arange(before), removed)
        count = len(stay) + len(ids)
        memory = _Memory(_room(count), self.vectors.shape[1])
        memory.claim(0, count)
        for to, kept, new in (
            (memory.ids, self.item_ids, ids),
            (memory.vectors, self.vectors, vectors),
        ):
            np.take(kept, stay, axis=0, out=to[: len(stay)], mode="clip")
            to[len(stay) : count] = new
        after_it._show(memory, count, NO_ROWS)
        return after_it

    def scores(self, users_bD: NDArray[np.float32]) -> NDArray[np.float32]:
        """Inner products (b, n) of every user vector with every row of the list."""
        if len(users_bD) == 1:  # a matrix-vector product spares BLAS the packing
            return (self.vectors @ users_bD[0])[None]
        return users_bD @ self.vectors.T

    def best(
        self, user_D: NDArray[np.float32], count: int, without: NDArray[np.int64] = NO_ROWS
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The `count` best scores of one user vector, best first, and their rows.

        Rows that are removed are left out, and the rows `without`, which are not among those.
        """
        size, leave = len(self.item_ids), np.concatenate([self.removed, without])
        count = min(count, size - len(leave))
        if count < 1:
            return np.empty(0, np.float32), NO_ROWS
        scores, rows = self._first(user_D, count + len(leave))
        if len(leave):
            wanted = ~np.isin(rows, leave)
            scores, rows = scores[wanted][:count], rows[wanted][:count]
        return scores, rows

    def _first(
        self, user_D: NDArray[np.float32], count: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The best scores of all rows, also of removed ones; `count` is 1 to the number of rows."""
        if faiss is not None and self.is_long:
            found = faiss.knn(user_D[None], self.vectors, count, metric=faiss.METRIC_INNER_PRODUCT)
            return found[0][0], found[1][0]
        scores = self.vectors @ user_D
        rows = np.argpartition(scores, len(scores) - count)[len(scores) - count :]
        rows = rows[np.argsort(-scores[rows], kind="stable")]
        return scores[rows], rows
