"""The facts in the manifest of a snapshot: those of its handover, and what the indexer adds."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict

from model.artifacts.handover_facts import HandoverFacts


class CodeDrift(BaseModel):
    """How far each first-level code moved since the parent; empty where nothing is to be compared.

    Attributes:
        movement: of the centroid, in radii.
        churn: share of its items that came or went.
        weight: share of the traffic.
        summary: over all codes; see `indexer.building.drift.Drift.summary`.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    movement: list[float] = []
    churn: list[float] = []
    weight: list[float] = []
    summary: dict[str, Any] = {}


class SnapshotFacts(HandoverFacts):
    """What a snapshot is made of.

    Attributes:
        version: its number; 0 if it is not said.
        parent: the version whose lists it shares; None for the first.
        handover: number of the handover it was made of.
        position: partition in decimal -> next offset of `items` that it does not hold.
        catalogue_items, indexed_items: items that were announced, and that can be found.
        codebook_generation: how often the codebook has moved.
        codes, codes_in_use, largest_list: first-level codes, those with items, most items of one.
        rebuilt_codes: whose lists were built anew; None where it is not said.
        shared_codes: how many lists are the parent's.
        deferred_codes: whose lists are built anew by a later version.
        reasons: code in decimal -> why its list was built anew.
        code_drift: since the parent.
        codebook_health: of the codebook as a whole.
    """

    VERSION: ClassVar[int] = 1

    version: int = 0
    parent: int | None = None
    handover: int = 0
    position: dict[str, int] = {}
    catalogue_items: int | None = None
    indexed_items: int | None = None
    codebook_generation: int | None = None
    codes: int = 0
    codes_in_use: int = 0
    largest_list: int = 0
    rebuilt_codes: list[int] | None = None
    shared_codes: int = 0
    deferred_codes: list[int] = []
    reasons: dict[str, list[str]] = {}
    code_drift: CodeDrift = CodeDrift()
    codebook_health: dict[str, Any] | None = None

    @classmethod
    def after(cls, before: HandoverFacts, /, **more: Any) -> Self:
        """Those of a handover, and more."""
        return cls(**before.to_json() | more | {"schema_version": cls.VERSION})
