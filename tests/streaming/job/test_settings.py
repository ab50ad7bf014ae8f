from __future__ import annotations

import re

import pytest

from streaming.job.settings import (
    JobConfig,
    JobEnvironment,
    flink_settings,
    from_json,
    java_settings,
    to_json,
)
from streaming.topics import Topics

AROUND = JobEnvironment(
    bootstrap="localhost:1",
    flink="somewhere:8081",
    jars=("/jars/a b.jar", "/jars/c.jar"),
    checkpoints="file:///checkpoints",
    topics=Topics().prefixed("it's-"),
)


def test_a_description_survives_the_way_to_the_submitting_process():
    config = JobConfig(name="x", parallelism=3, properties={"security.protocol": "SSL"})
    assert from_json(to_json(config, AROUND)) == (config, AROUND)


def test_client_properties_reach_source_and_sink_and_win():
    made = java_settings(
        JobConfig(properties={"security.protocol": "SSL", "linger.ms": "1"}), AROUND
    )
    for client in (made.consumer, made.producer):
        assert client["security.protocol"] == "SSL"
        assert client["linger.ms"] == "1"


def test_only_exactly_once_has_transactions():
    exactly = java_settings(JobConfig(), AROUND)
    at_least = java_settings(JobConfig(delivery="at-least-once"), AROUND)
    assert "transaction.timeout.ms" in exactly.producer
    assert "transaction.timeout.ms" not in at_least.producer
    assert (exactly.job["delivery"], at_least.job["delivery"]) == ("exactly-once", "at-least-once")


def test_java_gets_all_settings_as_text():
    made = java_settings(JobConfig(out_of_orderness_ms=1250, idle_timeout_s=0.5), AROUND)
    assert made.job["out_of_orderness_ms"] == "1250"
    assert made.job["idle_timeout_ms"] == "500"
    assert made.job["late"] == "it's-clicks.late"
    for settings in (made.job, made.consumer, made.producer):
        assert all(isinstance(value, str) for value in settings.values())


def test_a_job_is_restored_without_taking_the_state_away():
    assert not any("recovery" in name for name in flink_settings(JobConfig(), AROUND))
    from dataclasses import replace

    settings = flink_settings(JobConfig(), replace(AROUND, restore="file:///s"))
    assert settings["execution.state-recovery.path"] == "file:///s"
    assert settings["execution.state-recovery.claim-mode"] == "NO_CLAIM"


def test_checkpoints_outlive_the_job_and_waiting_is_not_bounded():
    settings = flink_settings(JobConfig(restart_delay_ms=500), AROUND)
    assert settings["execution.checkpointing.externalized-checkpoint-retention"] == (
        "RETAIN_ON_CANCELLATION"
    )
    assert settings["restart-strategy.type"] == "exponential-delay"
    assert settings["restart-strategy.exponential-delay.max-backoff"] == "5000 ms"
    assert not [name for name in settings if "attempts" in name]
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
        JobConfig(**{setting: value})
