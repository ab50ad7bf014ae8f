"""The rows of the lists that may answer: what a filter leaves, or what is listed and available.

Of many, the lists are scored as they lie, and the others are passed over afterwards; few are picked
out of the lists one by one.

Shapes: N rows of all lists, p rows that may answer, C codes, M cells, n positions at hand.
"""

from __future__ import annotations

from functools import cached_property

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
        sizes_C: int64, how many there are in each list.
        counts_M: int64, how many there are in each cell.
        dense: whether lists are scored as they lie.
    """

    def __init__(self, lists: CodeLists, cell_firsts_M: Ids, mask_N: Mask) -> None:
        self.mask_N = mask_N
        sums_N = np.concatenate([[0], np.cumsum(mask_N)])
        ends_M = np.append(cell_firsts_M[1:], len(mask_N))
        self.cell_starts_M = sums_N[cell_firsts_M]
        self.counts_M = sums_N[ends_M] - self.cell_starts_M
        self.starts_C = sums_N[lists.starts_C]
        self.sizes_C = sums_N[lists.starts_C + lists.lengths_C] - self.starts_C
        self._count = int(sums_N[-1])
        self.dense = self._count >= DENSE * len(mask_N)

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """Memory that it may take."""
        return self.mask_N.nbytes + 4 * self._count + 16 * len(self.counts_M)

    @cached_property
    def positions_p(self) -> NDArray[np.int32]:
        """All of them, ascending."""
        return np.flatnonzero(self.mask_N).astype(np.int32)

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
