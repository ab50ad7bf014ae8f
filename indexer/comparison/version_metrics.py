"""The numbers that a version's facts hold, by names that MLflow takes."""

from __future__ import annotations

import math
import re
from typing import Any

from indexer.snapshots.snapshot_facts import SnapshotFacts

_UNFIT = re.compile(r"[^A-Za-z0-9_\-. :/]")
"""MLflow takes letters, digits and these in a metric's name."""


def metric_name(name: str) -> str:
    """The name under which MLflow takes a metric."""
    return _UNFIT.sub("_", name)


def metrics_of(facts: SnapshotFacts) -> dict[str, float]:
    """Finite numbers among the snapshot's metrics and counts, by MLflow-fit names."""
    numbers: dict[str, Any] = facts.metrics | {
        "catalogue_items": facts.catalogue_items,
        "indexed_items": facts.indexed_items,
        "codebook_generation": facts.codebook_generation,
        "rebuilt_codes": None if facts.rebuilt_codes is None else len(facts.rebuilt_codes),
        "moved_items": facts.moved_items,
    }
    return {
        metric_name(name): float(value)
        for name, value in numbers.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    }
