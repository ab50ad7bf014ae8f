"""The configuration as the file that it could have come from."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import orjson
import tomli_w

from deploy.settings.checking import SECRETS
from deploy.settings.composed import Settings
from streaming.secret import masked, secrets_of


def complete(settings: Settings) -> dict[str, Any]:
    """Every setting with its value, also those that are kept unchecked; imports torch."""
    body = settings.model_dump(mode="json")
    body["learner"] = asdict(settings.learner_config())
    body["trainer"] = asdict(settings.trainer_config())
    shown: dict[str, Any] = masked(body)
    return shown


def as_toml(settings: Settings | dict[str, Any]) -> str:
    """The configuration in the form of the file, secrets masked, without what is unset."""
    body = settings if isinstance(settings, dict) else settings.model_dump(mode="json")
    return tomli_w.dumps(_without_null(masked(body)))


def passed_on(settings: Settings) -> dict[str, str]:
    """The variable by which the processes of a pipeline get what `as_toml` leaves out."""
    found = secrets_of(settings.model_dump())
    return {SECRETS: orjson.dumps(found).decode()} if found else {}


def _without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_null(v) for k, v in value.items() if v is not None}
    return [_without_null(v) for v in value] if isinstance(value, list | tuple) else value
