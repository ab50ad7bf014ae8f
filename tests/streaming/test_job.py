from __future__ import annotations

import re

import pytest

from streaming.job import Config, Surroundings, flink_settings, from_json, statements, to_json
from streaming.topics import Topics

AROUND = Surroundings(
    bootstrap="localhost:1",
    flink="somewhere:8081",
    jars=("/jars/a b.jar", "/jars/c.jar"),
    checkpoints="file:///checkpoints",
    topics=Topics().prefixed("it's-"),
)


def test_a_description_survives_the_way_to_the_submitting_process():
    config = Config(name="x", parallelism=3, properties={"security.protocol": "SSL"})
    assert from_json(to_json(config, AROUND)) == (config, AROUND)


def test_names_are_quoted_in_sql():
    definitions, insert = statements(Config(), AROUND)
    assert "THEN 'it''s-sequences'" in insert
    assert any("'it''s-sequences;it''s-clicks.late;it''s-clicks.dlq'" in d for d in definitions)


def test_client_properties_reach_source_and_sink():
    definitions, _ = statements(Config(properties={"security.protocol": "SSL"}), AROUND)
    assert sum("'properties.security.protocol' = 'SSL'" in d for d in definitions) == 2


def test_only_exactly_once_has_transactions():
    exactly, _ = statements(Config(), AROUND)
    at_least, _ = statements(Config(delivery="at-least-once"), AROUND)
    assert any("transactional-id-prefix" in d for d in exactly)
    assert not any("transactional-id-prefix" in d for d in at_least)


def test_the_watermark_is_behind_by_the_configured_time():
    definitions, _ = statements(Config(out_of_orderness_ms=1250), AROUND)
    assert any("INTERVAL '1.250' SECOND(2, 3)" in d for d in definitions)


def test_a_job_is_restored_without_taking_the_state_away():
    assert not any("recovery" in name for name in flink_settings(Config(), AROUND))
    from dataclasses import replace

    settings = flink_settings(Config(), replace(AROUND, restore="file:///s"))
    assert settings["execution.state-recovery.path"] == "file:///s"
    assert settings["execution.state-recovery.claim-mode"] == "NO_CLAIM"


def test_checkpoints_outlive_the_job_and_failures_are_bounded():
    settings = flink_settings(Config(restart_attempts=4), AROUND)
    assert settings["execution.checkpointing.externalized-checkpoint-retention"] == (
        "RETAIN_ON_CANCELLATION"
    )
    assert settings["restart-strategy.failure-rate.max-failures-per-interval"] == "4"
    assert settings["pipeline.jars"] == "file:///jars/a%20b.jar;file:///jars/c.jar"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("delivery", "sometimes"),
        ("state_backend", "paper"),
        ("parallelism", 0),
        ("checkpoint_interval_ms", 5),
        ("dedup_horizon", 0),
        ("out_of_orderness_ms", 0),
        ("idle_timeout_s", 0.0),
    ],
)
def test_a_wrong_setting_is_named(setting, value):
    with pytest.raises(ValueError, match=re.escape(f"streaming.{setting} is {value!r}")):
        Config(**{setting: value})
