"""What is wrong with a configuration, said by the name of the setting."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_origin, get_type_hints

import orjson
import pydantic
from pydantic import ValidationError

from deploy.usable_path import require_text
from streaming.secret import first_masked, is_secret, masked

C = TypeVar("C")
SECRETS = "SPARC_SECRETS"
"""Variable with the secrets of a pipeline, as JSON: they stand in no file that it writes."""


class SettingsError(ValueError):
    """The configuration is wrong; the message names the setting."""


def checked(section: str, kind: type[C], value: dict[str, Any]) -> C:
    """A section that is kept as it is written, as its type.

    Raises:
        SettingsError: naming the setting that is wrong.
    """
    try:
        refuse_unknown(kind, value, f"[{section}]")
        return pydantic.TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise SettingsError(f"[{section}] {first_problem(error)}") from error
    except ValueError as error:
        raise SettingsError(str(error)) from error


def first_problem(error: ValidationError) -> str:
    """In one line, where it is and what was given, unless that may be a secret."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "the configuration"
    given = first.get("input")
    # A whole section may hold a password, and a name that there is not may have been meant for one.
    tellable = isinstance(given, str | int | float) and first["type"] not in UNTOLD
    if not tellable or any(is_secret(str(part)) for part in first["loc"]):
        return f"{where}: {first['msg']}"
    return f"{where}: {first['msg']}, not {_short(masked(given))!r}"


UNTOLD = ("extra_forbidden", "dataclass_type", "dict_type")


def _short(given: Any) -> Any:
    return f"{given[:60]}..." if isinstance(given, str) and len(given) > 60 else given


def from_json(kind: Any, value: Any) -> None:
    """A list or a table in a variable is JSON: pydantic does not look into standard dataclasses."""
    if not (is_dataclass(kind) and isinstance(value, dict)):
        return
    for name, part_kind in get_type_hints(kind).items():
        part = value.get(name)
        if isinstance(part, str) and get_origin(part_kind) in (tuple, list, dict):
            with suppress(ValueError):  # what it is instead is said with the setting's name
                value[name] = orjson.loads(part)
        from_json(part_kind, value.get(name))


def refuse_unknown(kind: Any, value: Any, where: str) -> None:
    """Refuse a setting that no dataclass knows: pydantic ignores those of standard dataclasses."""
    if not (is_dataclass(kind) and isinstance(value, Mapping)):
        return
    known = get_type_hints(kind)
    for name, part in value.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; it has {', '.join(sorted(known))}"
            raise ValueError(f"{where} has no setting {name!r}{hint}")
        refuse_unknown(known[name], part, f"{where[:-1]}.{name}]")


def require_secrets(section: Mapping[str, Any], where: str) -> None:
    """Refuse to use a section whose secrets are not known in this process."""
    if name := first_masked(section, where):
        variable = f"SPARC_{name.replace('.', '__').upper()}" if name.count(".") < 3 else SECRETS
        raise SettingsError(
            f"{name} is not written into files: set {variable}, or give the --config that holds it"
        )


def with_absolute_paths(config: Any) -> Any:
    """A dataclass with its paths made absolute, those of the dataclasses in it, too."""
    changed = {}
    for each in fields(config):
        value = getattr(config, each.name)
        if isinstance(value, Path):
            require_text(value)
            changed[each.name] = value.expanduser().absolute()
        elif is_dataclass(value):
            changed[each.name] = with_absolute_paths(value)
    return replace(config, **changed)
