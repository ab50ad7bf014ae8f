"""What a published model says of itself beside its weights: how it is built, and by what clock."""

from __future__ import annotations

import dataclasses
from typing import Any

from model.artifacts.former_settings import without_constants
from model.network import item_tower, quantizer, user_tower
from model.network.sparc_config import LossWeights, SparcConfig
from model.tables import cooccurrence


def model_facts(
    config: SparcConfig,
    seed: int,
    clock_ms: int,
    items: int,
    one_user_vector: bool = False,
) -> dict[str, Any]:
    """`facts["model"]` of a handover or snapshot: what `RetrievalModel` needs beside weights."""
    control = {"one_user_vector": True} if one_user_vector else {}
    return control | {
        "config": dataclasses.asdict(config),
        "seed": seed,
        "clock_ms": clock_ms,
        "items": items,
    }


def config_from_dict(value: dict[str, Any]) -> SparcConfig:
    """`SparcConfig` from what `dataclasses.asdict` made of it, also after JSON or long ago.

    Raises:
        ValueError: as `without_constants`.
    """
    fields = without_constants(dict(value), "learner.model.")
    neighbours = dict(fields.pop("neighbours"))
    neighbours["half_lives_days"] = tuple(neighbours["half_lives_days"])
    return SparcConfig(
        item_tower=item_tower.ItemTowerConfig(**fields.pop("item_tower")),
        quantizer=quantizer.QuantizerConfig(**fields.pop("quantizer")),
        user_tower=user_tower.UserTowerConfig(**fields.pop("user_tower")),
        neighbours=cooccurrence.CooccurrenceConfig(**neighbours),
        losses=LossWeights(**fields.pop("losses")),
        popularity_half_lives_days=tuple(fields.pop("popularity_half_lives_days")),
        **fields,
    )
