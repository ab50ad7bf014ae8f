"""One category of what a catalogue says: a text, a path of levels, or several paths."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from replay.formats.record import plain_text

LONGEST_LIST = 10_000


def category_of(values: Iterable[Any]) -> str:
    """The second level of the first value that has any, or the first where it has but one.

    >>> category_of([None, ["Beauty", "Makeup", "Lips"], "All Beauty"])
    'Makeup'
    >>> category_of(["['Beauty', 'Makeup']"]), category_of(["Comedy|Fantasy"])
    ('Makeup', 'Comedy|Fantasy')
    """
    for value in values:
        if spoken := _spoken(_levels(value)):
            return _second(spoken)
    return ""


def second(levels: list[str]) -> str:
    """The second of the levels that say something, else the first."""
    return _second(_spoken(levels))


def _second(spoken: list[str]) -> str:
    return spoken[1] if len(spoken) > 1 else "".join(spoken)


def _spoken(levels: Iterable[Any]) -> list[str]:
    return [text for text in map(plain_text, levels) if text]


def _levels(value: Any) -> list[Any]:
    if isinstance(value, str) and value.lstrip().startswith("[") and len(value) < LONGEST_LIST:
        # what is no list after all is a text like any other
        with suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError, SystemError):
            value = ast.literal_eval(value.strip())
    if isinstance(value, list) and value and isinstance(value[0], list):
        value = value[0]
    return value if isinstance(value, list) else [value]
