"""The recency prior of items, beside the lists.

A list holds what was learnt of an item, which stands still while nobody clicks it. How often it
was clicked lately changes for everybody as time passes, so a version brings it along by itself, for
the few items that have any, and a score is their sum.

Shapes: N positions of the lists, P features, e positions that have any, n positions at hand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from indexer.lists.code_lists import CodeLists

if TYPE_CHECKING:  # torch is needed by the model only
    from model.retrieval.retrieval_model import RetrievalModel


class RecencyPrior:
    """Features of positions; zeros for an item without events.

    Attributes:
        positions_e: int64, ascending, of the items that have any.
        features_eP: float32, theirs.
    """

    def __init__(self, model: RetrievalModel, lists: CodeLists) -> None:
        ids, features = model.prior()
        positions, codes = lists.positions_of(ids)
        there = np.flatnonzero(codes >= 0)
        there = there[np.argsort(positions[there], kind="stable")]
        self.positions_e = positions[there]
        count = len(there)
        # behind them one of zeros, for all others: of a large catalogue nearly all
        self._rows = np.concatenate([features[there], np.zeros((1, features.shape[1]), np.float32)])
        self.features_eP = self._rows[:count]
        self._row_N = np.full(int(lists.lengths_C.sum()), count, np.int32)
        self._row_N[self.positions_e] = np.arange(count)

    def features(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Features (n, P) of positions."""
        return self._rows[self._row_N[positions]]

    def scores(
        self, positions: NDArray[np.int64], weights_P: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """What the prior adds to the scores of positions, for a user's weights: (n,)."""
        return self.features(positions) @ weights_P
