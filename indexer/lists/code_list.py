"""The items of one code: what lies in its file, and beside it, in memory, what changed since.

A list is immutable. One that changes shares its *base* with the list that it was: rows of it whose
item left stay as *removed*, and the rows that came are its *tail*, a small block of its own. So a
change costs what changed since the base was made, and a base may be a file mapped into memory.

Rows are numbered through: those of the base, then those of the tail.

Shapes: n rows of a list, D dimension.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexer.lists.cells import CellRows, Floats, Ids

NO_ROWS = np.empty(0, np.int64)


class CodeList:
    """The items of one code.

    Attributes:
        base: rows that are shared with the lists that grew from the same file.
        tail: rows that came since; each of its second-level codes is a cell.
        removed: int64, ascending, rows of the base whose item left.
        item_ids: int64 (n,), by row, also of removed ones.
    """

    __slots__ = ("base", "item_ids", "removed", "tail")

    def __init__(self, base: CellRows, removed: Ids = NO_ROWS, tail: CellRows | None = None):
        if tail is None:
            tail = CellRows.of(NO_ROWS, NO_ROWS, np.empty((0, base.vectors.shape[1]), np.float32))
        self.base, self.removed, self.tail = base, removed, tail
        ids = base.item_ids
        if len(tail):
            ids = np.concatenate([ids, tail.item_ids])
            ids.flags.writeable = False
        self.item_ids = ids

    @classmethod
    def of(cls, item_ids: Ids, seconds: NDArray[np.integer], vectors: Floats) -> CodeList:
        """A list in memory, of items in any order, with distinct ids and finite vectors."""
        return cls(CellRows.of(item_ids, seconds, vectors))

    def __len__(self) -> int:
        return len(self.item_ids) - len(self.removed)

    @property
    def dimension(self) -> int:
        """Of the vectors."""
        return self.base.vectors.shape[1]

    @property
    def blocks(self) -> tuple[CellRows, CellRows]:
        """Base and tail."""
        return self.base, self.tail

    @property
    def changes(self) -> int:
        """How many rows came or left since the base was made."""
        return len(self.tail) + len(self.removed)

    @property
    def present_ids(self) -> Ids:
        """Ids by row, -1 where the item was removed."""
        if not len(self.removed):
            return self.item_ids
        ids = self.item_ids.copy()
        ids[self.removed] = -1
        return ids

    def vectors(self, rows: Ids) -> Floats:
        """Vectors (k, D) of some rows."""
        count = len(self.base)
        if not len(self.tail):
            return self.base.vectors[rows]
        found = np.empty((len(rows), self.dimension), np.float32)
        behind = rows >= count
        found[~behind] = self.base.vectors[rows[~behind]]
        found[behind] = self.tail.vectors[rows[behind] - count]
        return found

    def score(self, first: int, last: int, user_D: Floats, out_n: Floats) -> None:
        """Write the inner products of rows `first` to `last` - 1, all of one block, to `out_n`."""
        count = len(self.base)
        if first < count:
            np.dot(self.base.vectors[first:last], user_D, out=out_n)
        else:
            np.dot(self.tail.vectors[first - count : last - count], user_D, out=out_n)

    def score_rows(self, rows: Ids, user_D: Floats, out_n: Floats) -> None:
        """Write the inner products of some rows to `out_n`."""
        np.dot(self.vectors(rows), user_D, out=out_n)

    def packed(self) -> CellRows:
        """Its items in one block, without the rows that are removed."""
        if not self.changes:
            return self.base
        stay = np.delete(np.arange(len(self.base)), self.removed)
        return CellRows.of(
            np.concatenate([self.base.item_ids[stay], self.tail.item_ids]),
            np.concatenate([self.base.seconds[stay], self.tail.seconds]),
            np.concatenate([self.base.vectors[stay], self.tail.vectors]),
        )

    def changed(
        self, leaving: Ids, ids: Ids, seconds: NDArray[np.integer], vectors: Floats
    ) -> CodeList:
        """The items of some rows leave, and others, with finite vectors, come into the tail.

        Rows of the tail are numbered anew; those of the base stay.
        """
        count = len(self.base)
        of_base = leaving < count
        removed = self.removed
        if of_base.any():
            removed = np.sort(np.concatenate([removed, leaving[of_base]]))
        stay = np.delete(np.arange(len(self.tail)), leaving[~of_base] - count)
        tail = CellRows.of(
            np.concatenate([self.tail.item_ids[stay], ids]),
            np.concatenate([self.tail.seconds[stay], seconds]),
            np.concatenate([self.tail.vectors[stay], vectors]),
            always=True,
        )
        return CodeList(self.base, removed, tail)

    def assembled(
        self,
        leaving_ids: Ids,
        ids: Ids,
        seconds: NDArray[np.integer],
        vectors: Floats,
    ) -> CodeList:
        """The same without some items, wherever in it they are, and with others in its tail.

        What leaves and is not there is passed over; what comes must have finite vectors, and takes
        the place of a row that it has already.
        """
        gone = np.flatnonzero(np.isin(self.item_ids, np.concatenate([leaving_ids, ids])))
        gone = np.setdiff1d(gone, self.removed, assume_unique=True)
        return self.changed(gone, ids, seconds, vectors)

    def save(self, path: Path) -> None:
        """Write its items as a file, without the rows that are removed."""
        self.packed().save(path)
