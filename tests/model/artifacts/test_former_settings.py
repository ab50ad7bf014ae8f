from __future__ import annotations

import pytest

from model.artifacts.former_settings import CONSTANT, without_constants
from model.learning import gradients, learner
from model.network import item_tower, losses, quantizer, user_tower
from model.tables import item_features
from model.training import trainer


def test_what_was_a_setting_is_the_constant_in_the_code() -> None:
    hour_ms = 3_600_000
    assert {
        "learner.catch_up_candidates": learner.CATCH_UP_CANDIDATES,
        "learner.clip": gradients.LARGEST_GRADIENT,
        "learner.hurried_candidates": learner.CATCH_UP_CANDIDATES,
        "learner.replay_recency": learner.REPLAY_RECENCY,
        "learner.session_hours": learner.SESSION_MS / hour_ms,
        "learner.model.contrast_temperature": losses.CONTRAST_TEMPERATURE,
        "learner.model.item_tower.content_scale": item_tower.CONTENT_SCALE,
        "learner.model.item_tower.features.category_buckets": item_features.CATEGORY_BUCKETS,
        "learner.model.item_tower.features.title_buckets": item_features.TITLE_BUCKETS,
        "learner.model.item_tower.features.title_words": item_features.TITLE_WORDS,
        "learner.model.item_tower.id_scale": item_tower.ID_SCALE,
        "learner.model.losses.commitment": losses.COMMITMENT,
        "learner.model.quantizer.decay": quantizer.DECAY,
        "learner.model.user_tower.heads": user_tower.HEADS,
        "trainer.checkpoint_seconds": trainer.CHECKPOINT_SECONDS,
    } == CONSTANT


def test_a_section_goes_with_the_last_of_its_settings_and_nothing_else_does() -> None:
    tower = {"features": {"title_words": 16}, "dimension": 8}
    recorded = {"learner": {"model": {"item_tower": tower}, "clip": 5}, "kafka": {"client": {}}}
    assert without_constants(recorded) == {
        "learner": {"model": {"item_tower": {"dimension": 8}}},
        "kafka": {"client": {}},
    }
    assert tower["features"] == {"title_words": 16}  # what was given stays as it is


def test_another_value_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"learner\.clip is 1\.0 there.*always 5\.0.*train anew"):
        without_constants({"clip": 1.0}, "learner.")
