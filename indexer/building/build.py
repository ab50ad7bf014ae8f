"""A new version, worked out in memory from a model, what the indexer places, and its parent.

What it costs is what differs from the parent: items that moved, came or went. Of all items only
codes and counts are looked at, as arrays.

Shapes: N items that the model has learnt, C first-level codes.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from indexer.building.codebook_health import Health
from indexer.building.drift import Drift, Geometry, measure_drift, shared_traffic
from indexer.building.placing import check_codes
from indexer.building.rebuild import Rebuild, first, rebuild
from indexer.snapshots.item_table import ItemTable
from indexer.snapshots.learnt_lists import Movement, advanced, built, movement
from indexer.snapshots.placed_items import PlacedItems
from indexer.snapshots.snapshot import Snapshot
from indexer.snapshots.snapshot_facts import SnapshotFacts
from model.artifacts.manifest import Manifest

if TYPE_CHECKING:  # torch is needed by the model only
    from model.retrieval.retrieval_model import RetrievalModel

SAMPLE = 32_768
"""Items by which radii and cosines are measured; of a smaller catalogue all."""


@dataclass(frozen=True)
class Build:
    """What is to be written.

    Attributes:
        model: what is served.
        rebuild: the lists of what the model has learnt, and why some of them are written anew.
        absent: int64 ids, ascending, of what the model knows and these lists do not hold.
        placed: items that the indexer has placed.
        moved: how many items came, went or moved since the parent; None without one.
        drift: against the parent; None without one, or one of another shape.
        health: of the codebook as a whole.
    """

    model: RetrievalModel
    rebuild: Rebuild
    absent: NDArray[np.int64]
    placed: PlacedItems
    moved: int | None
    drift: Drift | None
    health: Health

    @property
    def sizes_C(self) -> NDArray[np.int64]:
        """Items of each list, with those that are placed."""
        placed_n, sizes_C = self.placed.codes_nQ[:, 0], self.rebuild.lists.sizes_C
        return sizes_C + np.bincount(placed_n, minlength=len(sizes_C))

    def snapshot(self, version: int, catalogue: ItemTable) -> Snapshot:
        """What it will be, in memory: with files of its own nowhere."""
        lists, facts = self.rebuild.lists, SnapshotFacts(version=version)
        nowhere = Manifest("snapshot", {}, {}, "")
        bare = Snapshot(
            facts, Path(), nowhere, self.model, lists, catalogue, lists, catalogue, self.absent
        )
        return bare.with_placed(self.placed)

    def facts(self, parent: Snapshot | None, drift_threshold: float) -> dict[str, Any]:
        """What the manifest says of the indexer's part."""
        generation = (parent.facts.codebook_generation or 0) if parent else 0
        moved = self.drift is None or bool((self.drift.drift_C > drift_threshold).any())
        sizes_C = self.sizes_C
        facts: dict[str, Any] = {
            "parent": parent.version if parent else None,
            "codebook_generation": generation + moved,
            "rebuilt_codes": sorted(self.rebuild.reasons),
            "shared_codes": len(self.rebuild.shared),
            "reasons": {str(code): why for code, why in sorted(self.rebuild.reasons.items())},
            "rewritten_items": int(self.rebuild.lists.sizes_C[sorted(self.rebuild.reasons)].sum()),
            "indexed_items": int(sizes_C.sum()),
            "codes": len(sizes_C),
            "codes_in_use": int((sizes_C > 0).sum()),
            "largest_list": int(sizes_C.max(initial=0)),
            "sizes": sizes_C.tolist(),
            "codebook_health": asdict(self.health),
        }
        if self.moved is not None:
            facts["moved_items"] = self.moved
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
    placed: PlacedItems,
    parent: Snapshot | None,
    *,
    withdrawn: Collection[int] = (),
    drift_threshold: float,
    rebuild_rows: int | None = None,
) -> Build:
    """Move what has moved, measure drift, and choose the lists that are written anew.

    Args:
        model: what is to be served.
        placed: items that it has not learnt, or not as they are listed.
        parent: the served snapshot as it is on disk; None for the first or to share nothing.
        withdrawn: items that the version must not hold, though the model may know them.
        drift_threshold: as in `IndexerConfig`.
        rebuild_rows: as in `IndexerConfig`; None for any number.

    Raises:
        IndexerError: if the model gives vectors or codes that must not be served.
    """
    items = model.items
    gone = np.union1d(np.fromiter(withdrawn, np.int64, len(withdrawn)), placed.ids_n)
    absent = gone[items.rows(gone) >= 0]
    health = _health(model)
    if (
        parent is None
        or parent.model.centroids_CD.shape != model.centroids_CD.shape
        or (len(parent.learnt.lists), parent.learnt.dimension)
        != (model.first_level_codes, model.dimension)
    ):
        rows = items.item_rows
        check_codes(model, items.ids_N[rows], items.codes_NQ[rows])
        lists = built(model, absent)
        return Build(model, first(lists), absent, placed, None, None, health)
    moved = movement(parent.model.items, items)
    known = items.rows(moved.ids_m) >= 0
    check_codes(model, moved.ids_m[known], moved.codes_mQ[known])
    lists = advanced(parent.learnt, moved, absent, parent.absent, items)
    drift = drift_since(parent.model, model, moved)
    chosen = rebuild(lists, drift, drift_threshold, rebuild_rows)
    return Build(model, chosen, absent, placed, len(moved.ids_m), drift, health)


def drift_since(
    before: RetrievalModel, model: RetrievalModel, moved: Movement | None = None
) -> Drift:
    """How far each code moved from one model to another of the same shape.

    `moved` are the items that differ, where that is known.
    """
    moved = moved or movement(before.items, model.items)
    shared_CC = _shared_traffic(before, model, moved.ids_m)
    return measure_drift(geometry_of(before), model.centroids_CD, shared_CC)


def geometry_of(model: RetrievalModel) -> Geometry:
    """Where the codes of a model lie, by a sample of its items."""
    rows = _sample(model.items.item_rows)
    codes_n = model.items.codes_NQ[rows, 0].astype(np.int64)
    space_nD = model.quantizer_space(model.items.z(rows))
    return Geometry.measure(model.centroids_CD, space_nD, codes_n)


def _health(model: RetrievalModel) -> Health:
    rows_N = model.items.item_rows
    rows, codes_N = _sample(rows_N), model.items.codes_NQ[:, 0]
    counts_C = np.bincount(codes_N[rows_N].clip(0), minlength=model.first_level_codes)
    codes_n = codes_N[rows].astype(np.int64)
    codes_n = codes_n.clip(0, model.first_level_codes - 1)  # a strange code is refused later
    counts_C = counts_C[: model.first_level_codes]
    space_nD = model.quantizer_space(model.items.z(rows))
    return Health.measure(model.centroids_CD, counts_C, space_nD, codes_n)


def _sample(rows_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """At most `SAMPLE` of some rows, spread evenly over them."""
    size = len(rows_N)
    return rows_N[np.unique(np.linspace(0, size - 1, min(size, SAMPLE)).astype(np.int64))]


def _shared_traffic(
    before: RetrievalModel, model: RetrievalModel, moved: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Traffic by new and old code of the items that both models know."""
    items, C = model.items, model.first_level_codes
    traffic_N, there = items.events_N + 1.0, items.item_rows
    staying_C = np.bincount(items.codes_NQ[there, 0], traffic_N[there], C)
    rows = items.rows(moved)
    now = rows[rows >= 0]  # they count below, or, where they are new, not at all
    staying_C -= np.bincount(items.codes_NQ[now, 0], traffic_N[now], C)
    old = before.items.rows(moved)
    both = (rows >= 0) & (old >= 0)
    old_codes = before.items.codes_NQ[old[both], 0].astype(np.int64)
    new_codes = items.codes_NQ[rows[both], 0].astype(np.int64)
    return shared_traffic(old_codes, new_codes, traffic_N[rows[both]], C, staying_C.clip(0))


def _rounded(values: NDArray[np.float32]) -> list[float]:
    return [round(float(v), 4) for v in values]
