"""The recency prior of items, beside the lists.

A list holds what was learnt of an item, which stands still while nobody clicks it. How often it
was clicked lately changes for everybody as time passes, so a version brings it along by itself, for
the few items that have any, and a score is their sum.

Shapes: N positions of the lists, P features, n positions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from indexer.lists.code_lists import CodeLists

if TYPE_CHECKING:  # torch is needed by the model only
    from model.retrieval.retrieval_model import RetrievalModel


class RecencyPrior:
    """Features of every position; zeros for an item without events.

    Attributes:
        features_NP: float32.
        positions_n: int64, ascending, of the items that have any.
    """

    def __init__(self, model: RetrievalModel, lists: CodeLists) -> None:
        ids, features = model.prior()
        positions, codes = lists.positions_of(ids)
        there = np.flatnonzero(codes >= 0)
        there = there[np.argsort(positions[there], kind="stable")]
        self.positions_n = positions[there]
        total = int(lists.lengths_C.sum())
        self.features_NP = np.zeros((total, features.shape[1]), np.float32)
        self.features_NP[self.positions_n] = features[there]

    def scores(
        self, positions: NDArray[np.int64], weights_P: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """What the prior adds to the scores of positions, for a user's weights: (n,)."""
        return self.features_NP[positions] @ weights_P
