"""Settings that are constants now, in what older versions recorded.

Facts of a model, the plan of an evaluation and the configuration that `sparc up` leaves in a data
directory hold every setting, whoever chose it. One that is a constant today is passed over where it
has the constant's value, and refused where it has another: it would mean another model. What has no
part in the answers any more is passed over, whatever its value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CONSTANT: dict[str, Any] = {
    "learner.catch_up_candidates": 4096,
    "learner.clip": 5.0,
    "learner.hurried_candidates": 4096,
    "learner.replay_recency": 3.0,
    "learner.session_hours": 24.0,
    "learner.model.contrast_temperature": 0.1,
    "learner.model.item_tower.content_scale": 0.035,
    "learner.model.item_tower.features.category_buckets": 1024,
    "learner.model.item_tower.features.title_buckets": 16_384,
    "learner.model.item_tower.features.title_words": 16,
    "learner.model.item_tower.id_scale": 0.035,
    "learner.model.losses.commitment": 0.1,
    "learner.model.quantizer.decay": 0.95,
    "learner.model.user_tower.heads": 4,
    "trainer.checkpoint_seconds": 60.0,
}
"""What each is now, beside the code that uses it; a test compares the two."""

WITHOUT_EFFECT: dict[str, str] = {
    "learner.model.key_dimension": (
        "what a neighbour adds to a score is added to its item alone, in lists of any length"
    ),
    "search.largest_share": "search.scored_share bounds what a query scores, evidence counted",
}
"""Why nothing depends on it any more."""


def without_constants(recorded: Mapping[str, Any], section: str = "") -> dict[str, Any]:
    """A copy of recorded settings without those that are constants now, or without effect.

    Args:
        recorded: settings and sections.
        section: where they stand, with a dot at its end; empty for a whole configuration.

    Raises:
        ValueError: naming one that has another value than the constant, and the remedy.

    >>> without_constants({"clip": 5.0, "seed": 3}, "learner.")
    {'seed': 3}
    """
    kept = {}
    for last, value in recorded.items():
        name = f"{section}{last}"
        if isinstance(value, Mapping):
            part = without_constants(value, f"{name}.")
            if part or not value:  # a section of nothing but constants is none any more
                kept[last] = part
        elif name in WITHOUT_EFFECT:
            continue
        elif name not in CONSTANT:
            kept[last] = value
        elif value != CONSTANT[name]:
            raise ValueError(
                f"{name} is {value!r} there, and always {CONSTANT[name]!r} in this version: go on "
                "with the version that wrote it, or train anew (`sparc up --fresh`)"
            )
    return kept
