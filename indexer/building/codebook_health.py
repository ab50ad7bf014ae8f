"""Whether a codebook as a whole is of use: how evenly it is used, and how well its codes fit.

Shapes: C first-level codes, D dimension of the quantizer's space, n items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Health:
    """Figures of one version's first level.

    Attributes:
        codes_alive: codes that hold items.
        effective_codes: exp of the entropy of the codes' shares of the items; C where all are
            equal. Over C it is what the learner reports as `perplexity`.
        largest_share: of the items, in the fullest code.
        item_cosine: mean cosine of an item and its centroid, over those looked at; 1 where codes
            say all.
        centroid_cosine: mean cosine of two different centroids in use; near 0 where they differ.
    """

    codes_alive: int
    effective_codes: float
    largest_share: float
    item_cosine: float
    centroid_cosine: float

    @classmethod
    def measure(
        cls,
        centroids_CD: NDArray[np.float32],
        counts_C: NDArray[np.int64],
        items_nD: NDArray[np.float32],
        codes_n: NDArray[np.int64],
    ) -> Health:
        """From how many items each code holds, and some items in the quantizer's space.

        >>> square = np.array([[1, 0], [0, 1]], np.float32)
        >>> Health.measure(square, np.array([5, 5]), square, np.array([0, 1]))
        Health(codes_alive=2, effective_codes=2.0, largest_share=0.5, item_cosine=1.0, \
centroid_cosine=0.0)
        """
        shares = counts_C[counts_C > 0] / max(1, counts_C.sum())
        unit_CD, unit_nD = _unit(centroids_CD), _unit(items_nD)
        item_cosine = (
            float(np.einsum("nd,nd->n", unit_nD, unit_CD[codes_n]).mean()) if len(codes_n) else 0.0
        )
        alive_AD = unit_CD[counts_C > 0].astype(np.float64)
        A = len(alive_AD)
        # the sum over all pairs, without the pairs of a centroid with itself
        pairs = float(np.square(alive_AD.sum(axis=0)).sum() - np.square(alive_AD).sum())
        return cls(
            A,
            round(float(np.exp(-(shares * np.log(shares)).sum())) if A else 0.0, 4),
            round(float(shares.max(initial=0.0)), 6),
            round(item_cosine, 6),
            round(pairs / (A * (A - 1)), 6) if A > 1 else 0.0,
        )


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
