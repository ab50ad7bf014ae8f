"""A new version, worked out in memory from a model, the listed items and the version before it.

Shapes: N items, C first-level codes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from indexer.building.assignment import Assignment, ListedItem, assign
from indexer.building.codebook_health import Health
from indexer.building.drift import Drift, Geometry, measure_drift
from indexer.building.rebuild import Rebuild, rebuild
from indexer.snapshots.snapshot import Snapshot

if TYPE_CHECKING:  # torch is needed by the model only
    from model.retrieval.retrieval_model import RetrievalModel


@dataclass(frozen=True)
class Build:
    """What is to be written.

    Attributes:
        assignment: items, codes, vectors.
        first_seen_N: int64 ms; 0 for an item that only the model knows.
        rebuild: the lists, and why each of them was built anew.
        drift: against the parent; None without one, or one of another shape.
        health: of the codebook as a whole.
    """

    assignment: Assignment
    first_seen_N: NDArray[np.int64]
    rebuild: Rebuild
    drift: Drift | None
    health: Health

    def facts(self, parent: Snapshot | None, drift_threshold: float) -> dict[str, Any]:
        """What the manifest says of the indexer's part."""
        generation = (parent.facts.codebook_generation or 0) if parent else 0
        moved = self.drift is None or bool((self.drift.drift_C > drift_threshold).any())
        codes_C = self.rebuild.lists.sizes_C
        facts: dict[str, Any] = {
            "parent": parent.version if parent else None,
            "codebook_generation": generation + moved,
            "rebuilt_codes": sorted(self.rebuild.reasons),
            "shared_codes": len(self.rebuild.shared),
            "reasons": {str(code): why for code, why in sorted(self.rebuild.reasons.items())},
            "indexed_items": len(self.rebuild.lists),
            "codes": len(codes_C),
            "codes_in_use": int((codes_C > 0).sum()),
            "largest_list": int(codes_C.max(initial=0)),
            "codebook_health": asdict(self.health),
        }
        if self.rebuild.deferred:
            facts["deferred_codes"] = list(self.rebuild.deferred)
        if self.drift is not None:
            facts["code_drift"] = {
                "movement": _rounded(self.drift.movement_C),
                "churn": _rounded(self.drift.churn_C),
                "weight": _rounded(self.drift.weight_C),
                "summary": self.drift.summary(drift_threshold),
            }
        return facts


def build(
    model: RetrievalModel,
    listed: Sequence[ListedItem],
    changed: Collection[int],
    parent: Snapshot | None,
    geometry: Geometry | None,
    *,
    withdrawn: Collection[int] = (),
    drift_threshold: float,
    vector_tolerance: float,
    drift_rebuilds: int | None = None,
) -> Build:
    """Assign every item, measure drift, and build the lists that cannot be shared.

    Args:
        model: what is to be served.
        listed: every item announced so far.
        changed: items announced again, with other features, since the model learnt them.
        parent: the served snapshot as it is on disk, None for the first or to share nothing.
        geometry: where the parent's codes lie.
        withdrawn: items that the version must not hold, though the model may know them.
        drift_threshold: as in `IndexerConfig`.
        vector_tolerance: as in `IndexerConfig`.
        drift_rebuilds: as in `IndexerConfig`; None for any number.

    Raises:
        IndexerError: if the model gives vectors or codes that must not be served.
    """
    assignment = assign(model, [one.item for one in listed], changed, withdrawn)
    ids_N, codes_N = assignment.item_ids_N, assignment.codes_NQ[:, 0]
    drift = None
    if (
        parent is not None
        and geometry is not None
        and geometry.centroids_CD.shape == model.centroids_CD.shape
    ):
        _, old, new = np.intersect1d(
            parent.items.item_ids_N, ids_N, assume_unique=True, return_indices=True
        )
        drift = measure_drift(
            geometry,
            model.centroids_CD,
            parent.items.codes_NQ[old, 0].astype(np.int64),
            codes_N[new],
            assignment.events_N[new] + 1.0,
        )
    seen = {one.item.item_id: one.first_seen for one in listed}
    return Build(
        assignment,
        np.array([seen.get(i, 0) for i in ids_N.tolist()], np.int64),
        rebuild(
            parent.lists if parent is not None else None,
            ids_N,
            assignment.codes_NQ,
            assignment.vectors_ND,
            model.first_level_codes,
            drift,
            drift_threshold=drift_threshold,
            vector_tolerance=vector_tolerance,
            drift_rebuilds=drift_rebuilds,
        ),
        drift,
        Health.measure(
            model.centroids_CD,
            model.quantizer_space(None),
            np.asarray(model.codes_NQ[:, 0], np.int64),
        ),
    )


def _rounded(values: NDArray[np.float32]) -> list[float]:
    return [round(float(v), 4) for v in values]
