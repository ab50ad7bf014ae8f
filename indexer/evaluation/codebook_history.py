"""The codebook's health, drift and churn, for every version that answered.

Shapes: N items, C codes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from indexer.evaluation.published_versions import Served
from model.learning.learner import Learner

SIZES_EVERY = 7
"""Days between two records of every list's length."""


class CodebookLog:
    """One entry per day with queries; each belongs to the version that answered them."""

    def __init__(self, drift_threshold: float) -> None:
        self._threshold = drift_threshold
        self._first_codes_N: np.ndarray | None = None
        self._days: list[dict[str, Any]] = []
        self._sizes: list[dict[str, Any]] = []

    def add(self, day: int, served: Served, learner: Learner) -> None:
        """Record the version that answers a day, before the day is learnt."""
        built = served.built
        codes_N = built.model.items.codes_NQ[:, 0]
        if self._first_codes_N is None:
            self._first_codes_N = codes_N
        first_N = self._first_codes_N
        sizes_C = served.search.lists.sizes_C
        entry: dict[str, Any] = {"day": day, **learner.codebook_health()}
        entry |= {
            "codes_with_items": int((sizes_C > 0).sum()),
            "largest_list": int(sizes_C.max()),
            "centroid_cosine": built.health.centroid_cosine,
            "lists_rebuilt": len(built.rebuild.reasons),
            "items_moved": built.moved,
            "same_code_as_first": float((codes_N[: len(first_N)] == first_N).mean()),
        }
        if built.drift is not None:
            entry["drift"] = built.drift.summary(self._threshold)
        self._days.append(entry)
        if not self._sizes or day >= self._sizes[-1]["day"] + SIZES_EVERY:
            self._sizes.append({"day": day, "sizes": sizes_C.tolist()})

    def report(self) -> dict[str, Any]:
        """Daily entries, means over them, and list lengths about once a week."""
        means: dict[str, float] = {}
        for name in ("codes_in_use", "perplexity", "largest_to_mean", "cosine", "centroid_cosine"):
            values = [entry[name] for entry in self._days if name in entry]
            if values:
                means[name] = float(np.mean(values))
        for name in ("movement", "churn"):
            values = [entry["drift"][name] for entry in self._days if "drift" in entry]
            if values:
                means[f"{name}_per_version"] = float(np.mean(values))
        return {"means": means, "daily": self._days, "list_sizes": self._sizes}
