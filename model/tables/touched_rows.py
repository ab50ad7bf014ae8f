"""Which rows of a table changed since somebody last looked.

Each reader looks at its own pace: a checkpoint keeps what changed since the one before, and a
publication says what changed since the publication before. A mark is one byte a row and reader;
looking at a million takes some 20 microseconds, and all that follows costs what was touched.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.tables.capacity import with_room

CHECKPOINT = "checkpoint"
PUBLICATION = "publication"


class TouchedRows:
    """Marks of rows, for the two who read them.

    >>> touched = TouchedRows()
    >>> touched.mark(np.array([4, 2, 4]))
    >>> touched.take(CHECKPOINT).tolist(), touched.take(CHECKPOINT).tolist()
    ([2, 4], [])
    >>> touched.rows(PUBLICATION).tolist()
    [2, 4]
    """

    def __init__(self) -> None:
        self._marks = {reader: np.zeros(0, np.bool_) for reader in (CHECKPOINT, PUBLICATION)}

    def mark(self, rows: NDArray[np.integer]) -> None:
        """Rows, in any order and however often, have changed."""
        end = int(rows.max(initial=-1)) + 1
        for reader in self._marks:
            self._marks[reader] = with_room(self._marks[reader], end)
            self._marks[reader][rows] = True

    def rows(self, reader: str) -> NDArray[np.int64]:
        """What changed since the reader last took it, ascending."""
        return np.flatnonzero(self._marks[reader])

    def take(self, reader: str) -> NDArray[np.int64]:
        """The same, and begin anew."""
        rows = self.rows(reader)
        self._marks[reader][rows] = False
        return rows

    def load(self, unpublished: NDArray[np.integer]) -> None:
        """After a restart: nothing is to be saved, and these rows are to be published."""
        for reader in self._marks:
            self._marks[reader][:] = False
        self.mark(unpublished)
        self._marks[CHECKPOINT][:] = False
