"""Places of items in the lists of their codes, which stay while an item keeps its code.

A place is a dimension of the retrieval vectors (see `retrieval_model`). Vectors of a list that is
not rebuilt must stay true under a newer model, so a place is given once and held until its item
leaves the code. Shapes: N items, d places.
"""

from __future__ import annotations

import numpy as np

from model.histories import NO_ROW


class ListSlots:
    """Gives each item the least used place of its code's list.

    >>> keys = ListSlots(2)
    >>> keys.assign(np.array([0, 0, 1, 0])).tolist()
    [0, 1, 0, 0]
    >>> keys.assign(np.array([0, 0, 0, 1])).tolist()  # the third and fourth change codes
    [0, 1, 0, 0]
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self.codes_N = np.zeros(0, dtype=np.int64)
        self.places_N = np.zeros(0, dtype=np.int64)

    def assign(self, codes_N: np.ndarray) -> np.ndarray:
        """Places (N,) for items of these codes; items may have been added at the end."""
        more = len(codes_N) - len(self.codes_N)
        before_N = np.pad(self.codes_N, (0, more), constant_values=NO_ROW)
        places_N = np.pad(self.places_N, (0, more))
        moved_N = before_N != codes_N
        for code in np.unique(codes_N[moved_N]):
            held = places_N[(codes_N == code) & ~moved_N]
            use_d = np.bincount(held, minlength=self._places)
            rows = np.flatnonzero(moved_N & (codes_N == code))
            rounds = -(-len(rows) // self._places)
            # round r offers each place at its use + r, so the least used come first
            offers = (use_d[None, :] + np.arange(rounds)[:, None]).ravel()
            order = np.argsort(offers, kind="stable")[: len(rows)]
            places_N[rows] = order % self._places
        self.codes_N, self.places_N = codes_N.copy(), places_N
        return places_N
