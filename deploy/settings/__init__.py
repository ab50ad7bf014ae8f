"""The configuration of the whole pipeline: each part's `Config`, composed from one TOML file."""

from deploy.settings.composed import (
    CONFIG,
    DATA,
    LATEST,
    ROOT,
    SECRETS,
    Flink,
    Kafka,
    Settings,
    SettingsError,
    as_toml,
    complete,
    load,
    passed_on,
    without_settings,
)

__all__ = [
    "CONFIG",
    "DATA",
    "LATEST",
    "ROOT",
    "SECRETS",
    "Flink",
    "Kafka",
    "Settings",
    "SettingsError",
    "as_toml",
    "complete",
    "load",
    "passed_on",
    "without_settings",
]
