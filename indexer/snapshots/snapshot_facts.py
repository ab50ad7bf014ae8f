"""The facts in the manifest of a snapshot: those of its handover, and what the indexer adds."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict

from model.artifacts.handover_facts import HandoverFacts

CATALOGUE = "catalogue"
"""The fact that names the chain of the items table; see `model.artifacts.chain`."""


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


class CatalogueChanges(BaseModel):
    """What is different in the catalogue of a later version.

    Attributes:
        items: items in both.
        new_items: items in the later one alone.
        removed_items: items in the earlier one alone.
        moved_items: items in both whose first-level code differs.
        moves: the most frequent moves (from code, to code, items), most frequent first.
        examples: some moved items: (title or external id, from code, to code), the most clicked
            first.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    items: int = 0
    new_items: int = 0
    removed_items: int = 0
    moved_items: int = 0
    moves: list[tuple[int, int, int]] = []
    examples: list[tuple[str, int, int]] = []

    @property
    def moved_share(self) -> float:
        """Moved items of all that are in both."""
        return self.moved_items / self.items if self.items else 0.0


class SnapshotFacts(HandoverFacts):
    """What a snapshot is made of.

    Attributes:
        version: its number; 0 if it is not said.
        parent: the version whose lists it shares; None for the first.
        handover: number of the handover it was made of.
        position: partition in decimal -> next offset of `items` that it does not hold.
        catalogue: its files of what is shown of items, oldest first.
        catalogue_items, indexed_items: items that were announced, and that can be found.
        codebook_generation: how often the codebook has moved.
        codes, codes_in_use, largest_list: first-level codes, those with items, most items of one.
        rebuilt_codes: whose lists were built anew; None where it is not said.
        shared_codes: how many lists are the parent's.
        deferred_codes: whose lists were due, and wait for a later version.
        moved_items: items with another vector or code than in the parent, come or gone; None for
            the first.
        rewritten_items: items in the lists that were built anew.
        reasons: code in decimal -> why its list was built anew.
        sizes: items of each first-level code.
        changes: in the catalogue since the parent; None for the first.
        code_drift: since the parent.
        codebook_health: of the codebook as a whole.
    """

    VERSION: ClassVar[int] = 2

    version: int = 0
    parent: int | None = None
    handover: int = 0
    position: dict[str, int] = {}
    catalogue: list[str] = []
    catalogue_items: int | None = None
    indexed_items: int | None = None
    codebook_generation: int | None = None
    codes: int = 0
    codes_in_use: int = 0
    largest_list: int = 0
    rebuilt_codes: list[int] | None = None
    shared_codes: int = 0
    deferred_codes: list[int] = []
    moved_items: int | None = None
    rewritten_items: int = 0
    reasons: dict[str, list[str]] = {}
    sizes: list[int] = []
    changes: CatalogueChanges | None = None
    code_drift: CodeDrift = CodeDrift()
    codebook_health: dict[str, Any] | None = None

    @property
    def rebuild_reasons(self) -> dict[str, int]:
        """How many lists were written anew for each reason, or reasons, most frequent first."""
        counts = Counter(" and ".join(why) for why in self.reasons.values())
        return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))

    @property
    def new_lists(self) -> str:
        """How many lists were written anew, and why: `3 of 64 (drift 2, changes 1)`."""
        if self.rebuilt_codes is None:
            return ""
        of = f" of {self.codes}" if self.codes else ""
        why = ", ".join(f"{name} {count}" for name, count in self.rebuild_reasons.items())
        return f"{len(self.rebuilt_codes)}{of}" + (f" ({why})" if why else "")

    @classmethod
    def after(cls, before: HandoverFacts, /, **more: Any) -> Self:
        """Those of a handover, and more."""
        return cls(**before.to_json() | more | {"schema_version": cls.VERSION})
