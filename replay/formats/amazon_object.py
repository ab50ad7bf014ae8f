"""Amazon's reviews and metadata: one object per line, as JSON or as a Python literal.

    2014  reviews_X_5.json.gz   reviewerID, asin, unixReviewTime (s)
          meta_X.json.gz        asin, title, categories [[level 1, ...], ...]; Python literals
    2018  X_5.json.gz           reviewerID, asin, unixReviewTime (s)
          meta_X.json.gz        asin, title, category [level 1, level 2, ...]; repeats items
    2023  X.jsonl.gz            user_id, parent_asin, timestamp (ms)
          meta_X.jsonl.gz       parent_asin, title, main_category, categories [level 1, ...]

Objects of other shops are read too, by the names that `columns` knows.

Literals go through `ast.literal_eval`, which builds no object but numbers, texts and containers,
and only up to `LONGEST_LITERAL`. `related` (also bought, also viewed) is cut out before: it is
most of the line, and knows the future.
"""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from replay.errors import LineError
from replay.formats.categories import category_of
from replay.formats.columns import entry_columns, event_columns
from replay.formats.record import (
    Entry,
    EntryFormat,
    Event,
    EventFormat,
    event_type,
    plain_text,
    second_id,
    shop_id,
)
from replay.formats.times import time_form

LONGEST_LITERAL = 1024 * 1024
LONGEST_INTEGER = 400
_RELATED = re.compile(r"'related': \{[^{}]*\}(, )?")
_FOREIGN_WORDS = {
    "nan": math.nan,
    "NaN": math.nan,
    "inf": math.inf,
    "Infinity": math.inf,
    "null": None,
    "true": True,
    "false": False,
}

Read = Callable[[str], dict[str, Any]]


def _json(line: str) -> dict[str, Any]:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        value = _lenient_json(line, error)
    if not isinstance(value, dict):
        raise LineError(f"a JSON {type(value).__name__}, not an object")
    return value


def _lenient_json(line: str, reason: Exception) -> Any:
    """JSON as Python writes it, with NaN and Infinity: only their fields cannot be used."""
    try:
        return json.loads(
            line, parse_int=lambda text: int(text) if len(text) < LONGEST_INTEGER else math.inf
        )
    except (ValueError, RecursionError):
        raise LineError(f"malformed JSON ({reason})") from reason


class _ForeignWords(ast.NodeTransformer):
    """`nan` and `null` are no names of Python's literals; they spoil only their fields."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in _FOREIGN_WORDS:
            return ast.Constant(_FOREIGN_WORDS[node.id])
        return node


def _evaluate(text: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an odd escape such as "\d" is no news here
            try:
                return ast.literal_eval(text)
            except ValueError:  # also of a name
                return ast.literal_eval(_ForeignWords().visit(ast.parse(text, mode="eval")))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError, SystemError):
        return None  # SystemError: CPython 3.11 on a nesting that is just too deep


def _literal(line: str) -> dict[str, Any]:
    if len(line) > LONGEST_LITERAL:
        raise LineError(f"a Python literal of more than {LONGEST_LITERAL >> 20} MiB")
    value = _evaluate(_RELATED.sub("", line))
    if not isinstance(value, dict):  # the cut may have hit a text
        value = _evaluate(line)
    if not isinstance(value, dict):
        raise LineError("malformed Python literal")
    return value


def _objects(lines: Sequence[str]) -> tuple[Read, list[dict[str, Any]], list[str]] | None:
    """How the lines are written, those that can be read, and their keys; None if none is one."""
    for line in lines:
        if not line.startswith("{"):
            continue
        for read in (_json, _literal):
            try:
                read(line)
            except LineError:
                continue
            objects = []
            for other in lines:
                try:
                    objects.append(read(other))
                except LineError:
                    continue
            keys = dict.fromkeys(str(key) for one in objects for key in one)
            return read, objects, list(keys)
    return None


def events(lines: Sequence[str]) -> EventFormat | None:
    """The format of a file of reviews or events; None if the objects are something else.

    Raises:
        ReplayError: if a key is missing, or two could be meant.
    """
    found = _objects(lines)
    if found is None:
        return None
    read, objects, keys = found
    columns = event_columns(keys)
    if columns is None:
        return None
    user, item, time = keys[columns.user], keys[columns.item], keys[columns.time]
    kind = None if columns.event_type is None else keys[columns.event_type]
    form = time_form((one.get(time) for one in objects), time)

    def parse(line: str) -> Event:
        event = read(line)
        return Event(
            shop_id(event.get(user), user),
            shop_id(event.get(item), item),
            form.milliseconds(event.get(time)),
            event_type(None if kind is None else event.get(kind)),
        )

    return EventFormat("objects", 0, parse, columns.note(keys, form.name))


def items(lines: Sequence[str]) -> EntryFormat | None:
    """The format of a file of metadata; None if the objects are something else.

    Raises:
        ReplayError: if two keys could hold the items' ids.
    """
    found = _objects(lines)
    if found is None:
        return None
    read, _, keys = found
    columns = entry_columns(keys)
    if columns is None:
        return None
    item = keys[columns.item]
    titles = [keys[at] for at in columns.titles]
    categories = [keys[at] for at in columns.categories]
    external = None if columns.external is None else keys[columns.external]

    def parse(line: str) -> Entry:
        record = read(line)
        return Entry(
            shop_id(record.get(item), item),
            next(filter(None, (plain_text(record.get(key)) for key in titles)), ""),
            category_of(record.get(key) for key in categories),
            "" if external is None else second_id(record.get(external)),
        )

    return EntryFormat("objects", 0, parse, columns.note(keys), repeats=True)
