"""Where settings come from: the file, what a pipeline passes on to its parts, the secrets aside."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import orjson
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource

from deploy.settings.checking import SECRETS, SettingsError
from streaming.secret import secrets_of

CONTENT: ContextVar[Mapping[str, Any]] = ContextVar("content of the file")
"""What the file holds: pydantic-settings makes its sources inside the constructor."""


def read_toml(file: Path) -> dict[str, Any]:
    """What a TOML file holds.

    Raises:
        SettingsError: if there is no such file, or it is no TOML.
    """
    if not file.is_file():
        what = "a directory, not a" if file.is_dir() else "no such"
        raise SettingsError(f"{file}: {what} configuration file")
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: not TOML: {error}") from error


def passed_on() -> dict[str, Any]:
    """The secrets that the pipeline gave to this process."""
    found: dict[str, Any] = orjson.loads(os.environ.get(SECRETS) or b"{}")
    return found


def in_order(
    kind: type[BaseSettings],
    flags: PydanticBaseSettingsSource,
    variables: PydanticBaseSettingsSource,
) -> tuple[PydanticBaseSettingsSource, ...]:
    """Flags over variables over what the pipeline passes on over the file."""
    content = dict(CONTENT.get({}))
    below = passed_on(), _secrets_aside(variables(), content), content
    return (flags, variables, *(InitSettingsSource(kind, each) for each in below))


def _secrets_aside(*places: Mapping[str, Any]) -> dict[str, Any]:
    """The secrets of the `secrets_file` that the first of the places names."""
    named = next((str(p["secrets_file"]) for p in places if p.get("secrets_file")), None)
    if named is None:
        return {}
    try:
        return secrets_of(tomllib.loads(Path(named).read_text(encoding="utf-8")))
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"secrets_file {named}: not TOML: {error}") from error
    except (OSError, UnicodeDecodeError):
        return {}  # it may be readable to the pipeline's user alone
