"""How far each code has moved between the served snapshot and a new model.

Drift of a code = movement of its centroid relative to its radius + the share of its items that
changed code, each item weighted by its traffic. A code is compared with the one that it continues.
That is the code of its own number, as the trainer's moving averages swap no two; but where a
codebook was begun anew, the numbers say nothing, and old and new codes are matched by the items
that they share (Kuhn 1955, by `scipy.optimize.linear_sum_assignment`): drift is movement then, too,
and not renumbering.

Shapes: C first-level codes, D dimension of the quantizer's space, N items known to both versions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment


@dataclass(frozen=True)
class Geometry:
    """Where the codes of one version lie.

    Attributes:
        centroids_CD: float32 first-level codewords, in the quantizer's space.
        radii_C: float32 root mean square distance of a code's items to its centroid; 0 for a code
            without items.
    """

    centroids_CD: NDArray[np.float32]
    radii_C: NDArray[np.float32]

    @classmethod
    def measure(
        cls,
        centroids_CD: NDArray[np.float32],
        items_ND: NDArray[np.float32],
        codes_N: NDArray[np.int64],
    ) -> Geometry:
        """Radii from the items in the quantizer's space and their first-level codes."""
        C = len(centroids_CD)
        square_N = ((items_ND - centroids_CD[codes_N]) ** 2).sum(axis=1)
        sums_C = np.bincount(codes_N, square_N, C)
        counts_C = np.bincount(codes_N, minlength=C)
        return cls(centroids_CD, np.sqrt(sums_C / np.maximum(counts_C, 1)).astype(np.float32))


@dataclass(frozen=True)
class Drift:
    """Drift per code, float32 (C,), and the weight of each code in the traffic (sums to 1).

    `renumbered` codes continue one of another number.
    """

    movement_C: NDArray[np.float32]
    churn_C: NDArray[np.float32]
    weight_C: NDArray[np.float32]
    renumbered: int = 0

    @property
    def drift_C(self) -> NDArray[np.float32]:
        """Movement plus churn."""
        return self.movement_C + self.churn_C

    def summary(self, threshold: float) -> dict[str, Any]:
        """For the facts of a snapshot and the status: plain numbers."""
        drift_C = self.drift_C
        return {
            "mean": round(float((drift_C * self.weight_C).sum()), 6),
            "largest": round(float(drift_C.max(initial=0)), 6),
            "over_threshold": int((drift_C > threshold).sum()),
            "movement": round(float((self.movement_C * self.weight_C).sum()), 6),
            "churn": round(float((self.churn_C * self.weight_C).sum()), 6),
            "renumbered": self.renumbered,
        }


def shared_traffic(
    old_codes_N: NDArray[np.int64],
    new_codes_N: NDArray[np.int64],
    traffic_N: NDArray[np.floating],
    codes: int,
    staying_C: NDArray[np.floating] | None = None,
) -> NDArray[np.float64]:
    """Traffic by new code (rows) and old code (columns): float64 (C, C).

    Args:
        old_codes_N: of items that both versions know.
        new_codes_N: of the same.
        traffic_N: of each.
        codes: C.
        staying_C: traffic of all other items, which have kept their code; None for no others.
    """
    shared = np.bincount(new_codes_N * codes + old_codes_N, traffic_N, codes * codes)
    shared_CC = shared.reshape(codes, codes).astype(np.float64)
    if staying_C is not None:
        shared_CC[np.arange(codes), np.arange(codes)] += staying_C
    return shared_CC


def continued(shared_CC: NDArray[np.float64]) -> NDArray[np.int64]:
    """The old code that each new one continues, int64 (C,): a permutation.

    Together the pairs share as much traffic as can be; of equals the code's own number is taken.

    >>> continued(shared_traffic(np.array([0, 0, 1, 2]), np.array([2, 2, 0, 1]), np.ones(4), 3))
    array([1, 2, 0])
    """
    codes = len(shared_CC)
    own = shared_CC.diagonal()
    if (own >= shared_CC.max(axis=1)).all():  # nearly always, and then there is nothing to solve
        return np.arange(codes)
    preference = np.eye(codes) * (1e-6 * max(float(shared_CC.sum()), 1.0) / codes)
    return linear_sum_assignment(shared_CC + preference, maximize=True)[1]


def measure_drift(
    old: Geometry, new_centroids_CD: NDArray[np.float32], shared_CC: NDArray[np.float64]
) -> Drift:
    """Compare two versions over the items that both know.

    A code without a radius (no items, or a single one on its centroid) is measured by the mean
    radius of the others. Churn of a code is the traffic of the items that left or entered it over
    the traffic of all that were or are in it.

    Args:
        old: where the codes lay.
        new_centroids_CD: where they lie.
        shared_CC: the traffic of those items; see `shared_traffic`.

    >>> old = Geometry(np.zeros((2, 1), np.float32), np.ones(2, np.float32))
    >>> moved = np.array([[0.5], [0.0]], np.float32)
    >>> shared = shared_traffic(np.array([0, 0, 1]), np.array([0, 1, 1]), np.ones(3), 2)
    >>> d = measure_drift(old, moved, shared)
    >>> d.movement_C.tolist(), d.churn_C.tolist()
    ([0.5, 0.0], [0.5, 0.5])
    """
    C = len(old.centroids_CD)
    continued_C = continued(shared_CC)
    renumbered = int((continued_C != np.arange(C)).sum())
    if renumbered:
        old = Geometry(old.centroids_CD[continued_C], old.radii_C[continued_C])
        shared_CC = shared_CC[:, continued_C]
    known = old.radii_C[old.radii_C > 0]
    typical = float(known.mean()) if len(known) else 1.0
    radii_C = np.where(old.radii_C > 0, old.radii_C, typical)
    movement_C = np.linalg.norm(new_centroids_CD - old.centroids_CD, axis=1) / radii_C
    staying_C = shared_CC.diagonal()
    total_C = shared_CC.sum(axis=0) + shared_CC.sum(axis=1) - staying_C
    churn_C = (total_C - staying_C) / np.where(total_C > 0, total_C, 1.0)
    weight_C = total_C / total_C.sum() if total_C.sum() > 0 else np.full(C, 1 / C)
    return Drift(
        movement_C.astype(np.float32),
        churn_C.clip(0).astype(np.float32),
        weight_C.astype(np.float32),
        renumbered,
    )
