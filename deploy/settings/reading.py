"""The effective configuration, by flags over variables over the file over the defaults."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from deploy.settings import sources
from deploy.settings.checking import SettingsError, first_problem
from deploy.settings.composed import CONFIG, LATEST, MARK, Settings
from deploy.settings.former import up_to_date
from streaming.secret import MASK, first_masked, remember, secrets_of


def load(
    config: Path | None = None,
    data_dir: Path | None = None,
    *,
    written: bool = True,
    **overrides: Any,
) -> Settings:
    """Read the effective configuration.

    Args:
        config: the TOML file; else `SPARC_CONFIG`; else what a pipeline has `written`.
        data_dir: else `SPARC_DATA_DIR`; else that of the last pipeline that was started.
        written: whether the `config.toml` that `sparc up` leaves in the data directory counts.
        overrides: values of flags, by field; those of a section as a mapping.

    Raises:
        SettingsError: naming the file or the setting that is wrong.
    """
    if data_dir is None and (given := os.environ.get("SPARC_DATA_DIR")):
        data_dir = Path(given)
    config = file_in_use(config, data_dir, written=written)
    if data_dir is not None:
        overrides["data_dir"] = data_dir
    remember(sources.passed_on())
    reading = sources.CONTENT.set(content_of(config))
    try:
        settings = Settings(**{k: v for k, v in overrides.items() if v is not None})
    except ValidationError as error:
        raise SettingsError(f"{first_problem(error)} (file: {config or 'none'})") from error
    finally:
        sources.CONTENT.reset(reading)
    body = settings.model_dump()
    remember(secrets_of(body))
    ours = config is not None and config.resolve() == (settings.data_dir / CONFIG).resolve()
    if not ours and (name := first_masked(body)):
        raise SettingsError(
            f"{name} is {MASK}, which is shown in place of a secret; give the secret itself "
            f"(file: {config or 'none'})"
        )
    return settings


def file_in_use(config: Path | None, data_dir: Path | None, *, written: bool = True) -> Path | None:
    """The configuration file that `load` reads for these arguments."""
    if config is None and (given := os.environ.get("SPARC_CONFIG")):
        config = Path(given)
    if config is None:
        left = (data_dir or LATEST) / CONFIG
        config = left if written and left.is_file() else None
    return config


def content_of(config: Path | None) -> dict[str, Any]:
    """What a configuration file holds, under the names of today where `sparc up` wrote it.

    Raises:
        SettingsError: if there is no such file, it is no TOML, or of a version that this one cannot
            go on from.
    """
    if config is None:
        return {}
    content = sources.read_toml(config)
    try:
        return up_to_date(content) if is_written(config) else content
    except ValueError as error:
        raise SettingsError(f"{config}: {error}") from error


def is_written(file: Path) -> bool:
    """Whether `sparc up` has written a file, with every setting, whoever chose it."""
    return file.name == CONFIG and (file.parent / MARK).is_file()


def without_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without the variables that set something here.

    >>> without_settings({"SPARC_REPLAY__RATE": "5", "sparc_config": "a.toml", "HOME": "/root"})
    {'HOME': '/root'}
    """
    known = {"config", "secrets", *Settings.model_fields}
    prefix = Settings.model_config["env_prefix"].lower()
    return {
        name: value
        for name, value in environment.items()
        if not name.lower().startswith(prefix)
        or name.lower().removeprefix(prefix).split("__")[0] not in known
    }
