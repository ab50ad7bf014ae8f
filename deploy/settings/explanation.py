"""Every setting with what it means, in the form of the file.

The sentences are those of the configurations' docstrings, so a setting is described where it is
defined and nowhere else.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

import tomli_w
from pydantic_settings import EnvSettingsSource

from deploy.settings.composed import Settings
from deploy.settings.reading import content_of, file_in_use, is_written, load
from deploy.settings.writing import complete

ATTRIBUTES = re.compile(r"^Attributes:\n((?: {4}.*\n?|\n(?= {4}))+)", re.MULTILINE)
ATTRIBUTE = re.compile(r"^ {4}(\w+(?:, \w+)*): (.*(?:\n {8}.*)*)", re.MULTILINE)
WIDTH = 98
LATER = ("learner", "trainer")
"""Sections that `Settings` keeps as they are written."""


@dataclass(frozen=True)
class Explained:
    """One setting.

    Attributes:
        name: with its sections, as in `kafka.heap_mb`.
        value: in effect; a secret as asterisks.
        source: "default", "file", "variable", or "flag".
        sentence: what it means.
    """

    name: str
    value: Any
    source: str
    sentence: str


def explained(config: Path | None, data_dir: Path | None) -> list[Explained]:
    """Every setting of what `load` reads; imports torch.

    Raises:
        SettingsError: as `load`.
    """
    settings = load(config, data_dir)
    used = file_in_use(config, data_dir or settings.data_dir)
    file, written = content_of(used), used is not None and is_written(used)
    variables = EnvSettingsSource(Settings)()
    defaults = complete(Settings.model_construct())
    found = []
    for name, value, sentence in _walk(settings, complete(settings), ""):
        source = "default"
        if _in(file, name) and not (written and value == _at(defaults, name)):
            source = "file"
        if _in(variables, name):
            source = "variable"
        elif source == "default" and value != _at(defaults, name):
            source = "flag"
        found.append(Explained(name, value, source, sentence))
    return found


def as_commented_toml(found: list[Explained]) -> str:
    """The configuration as a file whose comments explain it; what is unset is a comment, too."""
    parts, section = [], ""
    for one in found:
        above, _, last = one.name.rpartition(".")
        if isinstance(one.value, dict):
            above = one.name
        if above != section:
            parts.append(f"\n[{above}]\n")
            section = above
        comment = textwrap.wrap(f"{one.sentence} ({one.source})", WIDTH)
        parts.extend(f"# {line}\n" for line in comment)
        if one.value is None:
            parts.append(f"# {last} is unset\n")
        elif isinstance(one.value, dict):
            parts.append(tomli_w.dumps(one.value))
        else:
            parts.append(tomli_w.dumps({last: one.value}))
    return "".join(parts)


def sentences(kind: type) -> dict[str, str]:
    """What the docstring of a configuration says of its fields.

    >>> sentences(Explained)["value"]
    'in effect; a secret as asterisks.'
    """
    section = ATTRIBUTES.search(inspect.getdoc(kind) or "")
    entries = ATTRIBUTE.findall(section[1]) if section else []
    return {name: " ".join(text.split()) for names, text in entries for name in names.split(", ")}


def _walk(config: Any, body: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any, str]]:
    """Name, value and sentence of each setting: of a section first, then of those in it."""
    told = sentences(type(config))
    tables = [name for name, value in body.items() if isinstance(value, dict)]
    for name in [*(name for name in body if name not in tables), *tables]:
        part = getattr(config, name)
        if isinstance(config, Settings) and name in LATER:
            part = getattr(config, f"{name}_config")()
        if is_dataclass(part):
            yield from _walk(part, body[name], f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", body[name], told.get(name, "")


def _at(values: Any, name: str) -> Any:
    for part in name.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values


def _in(values: Any, name: str) -> bool:
    *above, last = name.split(".")
    section = _at(values, ".".join(above)) if above else values
    return isinstance(section, Mapping) and last in section
