"""The codebook in the plane: each first-level code where its centroid lies, and what it holds.

The plane is that of the two largest principal components of the centroids, turned (orthogonal
Procrustes) so that the codes stay where they were in the picture of the version before.

Shapes: C codes, D dimension of the quantizer's space.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexer.search.retriever import Retriever


class CodebookMap:
    """Draws the map of the served version; keeps the last one to turn the next one by."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._places: NDArray[np.float64] | None = None
        self._drawn: tuple[Retriever, dict[str, Any]] | None = None

    def view(self, retriever: Retriever) -> dict[str, Any]:
        """Codes with place, items, traffic and drift, as plain JSON values."""
        with self._lock:
            if self._drawn is None or self._drawn[0] is not retriever:
                self._drawn = (retriever, self._draw(retriever))
            return self._drawn[1]

    def _draw(self, retriever: Retriever) -> dict[str, Any]:
        snapshot = retriever.snapshot
        places = turned(plane(snapshot.model.centroids_CD), self._places)
        self._places = places
        C = len(places)
        items = snapshot.model.items
        rows = items.item_rows
        clicks = np.bincount(items.codes_NQ[rows, 0], items.events_N[rows], C)
        movement = _padded(snapshot.facts.code_drift.movement, C)
        churn = _padded(snapshot.facts.code_drift.churn, C)
        sizes = snapshot.lists.sizes_C
        return {
            "version": retriever.version,
            "parent": snapshot.facts.parent,
            "codes_in_use": int((sizes > 0).sum()),
            "codes": [
                {
                    "code": code,
                    "x": round(float(places[code, 0]), 4),
                    "y": round(float(places[code, 1]), 4),
                    "items": int(sizes[code]),
                    "clicks": int(clicks[code]),
                    "movement": movement[code],
                    "churn": churn[code],
                    "label": retriever.label(code),
                }
                for code in range(C)
            ],
        }


def items_of(retriever: Retriever, code: int, limit: int) -> list[dict[str, Any]]:
    """Items of a first-level code, the most clicked first; none of a code that is not there."""
    snapshot = retriever.snapshot
    if code >= len(snapshot.lists.lists):
        return []
    ids = snapshot.lists.lists[code].present_ids
    ids = ids[ids >= 0]
    most = np.argsort(-snapshot.events_of(ids), kind="stable")[:limit]
    shown = ids[most].tolist()
    return [
        {"item_id": row["item_id"], **text, "clicks": row["events"], "codes": row["codes"]}
        for row, text in zip(snapshot.describe(shown), retriever.titles(shown), strict=True)
    ]


def plane(centroids_CD: NDArray[np.float32]) -> NDArray[np.float64]:
    """The first two principal components, float64 (C, 2), scaled to the unit square's size."""
    centred = centroids_CD.astype(np.float64) - centroids_CD.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    places = centred @ axes[:2].T
    if places.shape[1] < 2:
        places = np.pad(places, ((0, 0), (0, 2 - places.shape[1])))
    return places / max(float(np.abs(places).max(initial=0)), 1e-12)


def turned(places: NDArray[np.float64], before: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Places turned or mirrored to lie closest to those before.

    >>> a = np.array([[1.0, 0.0], [0.0, 0.5], [-1.0, 0.0]])
    >>> np.allclose(turned(-a, a), a)
    True
    """
    if before is None or before.shape != places.shape:
        return places
    left, _, right = np.linalg.svd(places.T @ before)
    return places @ (left @ right)


def _padded(values: list[float], count: int) -> list[float]:
    return (values + [0.0] * count)[:count]
