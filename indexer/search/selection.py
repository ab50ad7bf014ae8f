"""The rows of the lists that may answer: what a filter leaves, or what is listed and available.

Of many, the lists are scored as they lie, and the others are passed over afterwards; few are picked
out of the lists one by one.

Shapes: N rows of all lists, p rows that may answer, C codes, M cells, n positions at hand.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from indexer.lists.code_lists import CodeLists

Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]

DENSE = 0.5
"""Share of the rows from which on lists are scored as they lie: a row that is picked out costs as
much as two or three side by side."""


class Selection:
    """Some rows of the lists; immutable.

    Args:
        lists: of one version.
        cell_firsts_M: the first row of each of their cells.
        mask_N: which rows may answer; rows of removed items are none of them.

    Attributes:
        mask_N: as given.
        positions_p: int32, all of them, ascending.
        sizes_C: int64, how many there are in each list.
        counts_M: int64, how many there are in each cell.
        dense: whether lists are scored as they lie.
        share: of the items in the lists.
    """

    def __init__(self, lists: CodeLists, cell_firsts_M: Ids, mask_N: Mask) -> None:
        self.mask_N = mask_N
        self.positions_p = np.flatnonzero(mask_N).astype(np.int32)
        self.cell_starts_M, self.counts_M = self._parts(cell_firsts_M)
        self.starts_C, self.sizes_C = self._parts(lists.starts_C)
        self.dense = len(self) >= DENSE * len(mask_N)
        self.share = len(self) / max(1, len(lists))

    def _parts(self, firsts: Ids) -> tuple[Ids, Ids]:
        """Where those of each part of the rows begin, and how many there are."""
        starts = np.searchsorted(self.positions_p, firsts.astype(np.int32))
        return starts, np.diff(starts, append=len(self))

    def __len__(self) -> int:
        return len(self.positions_p)

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self.mask_N.nbytes + self.positions_p.nbytes + 2 * self.counts_M.nbytes

    def has(self, positions: Ids) -> Mask:
        """Whether each position is one of them (n); -1 is none."""
        return self.mask_N[positions] & (positions >= 0) if len(self.mask_N) else positions >= 0

    def of_cells(self, cells: Ids) -> Ids:
        """Those of some cells, ascending as these are."""
        return self._between(self.cell_starts_M[cells], self.counts_M[cells])

    def of_codes(self, codes: Ids) -> Ids:
        """Those of some lists, ascending as these are."""
        return self._between(self.starts_C[codes], self.sizes_C[codes])

    def _between(self, starts: Ids, sizes: Ids) -> Ids:
        ends = np.cumsum(sizes)
        total = int(ends[-1]) if len(ends) else 0
        at = np.repeat(starts - (ends - sizes), sizes) + np.arange(total)
        return self.positions_p[at].astype(np.int64)
