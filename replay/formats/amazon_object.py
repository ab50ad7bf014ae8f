"""Amazon's reviews and metadata: one object per line, as JSON or as a Python literal.

    2014  reviews_X_5.json.gz   reviewerID, asin, unixReviewTime (s)
          meta_X.json.gz        asin, title, categories [[level 1, ...], ...]; Python literals
    2018  X_5.json.gz           reviewerID, asin, unixReviewTime (s)
          meta_X.json.gz        asin, title, category [level 1, level 2, ...]; repeats items
    2023  X.jsonl.gz            user_id, parent_asin, timestamp (ms)
          meta_X.jsonl.gz       parent_asin, title, main_category, categories [level 1, ...]

Literals go through `ast.literal_eval`, which builds no object but numbers, texts and containers,
and only up to `LONGEST_LITERAL`. `related` (also bought, also viewed) is cut out before: it is
most of the line, and knows the future.
"""

from __future__ import annotations

import ast
import html
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from replay.errors import LineError
from replay.formats.record import (
    Entry,
    EntryFormat,
    Event,
    EventFormat,
    milliseconds,
    plain_text,
    text_id,
    unit_of,
)

LONGEST_LITERAL = 1024 * 1024
_RELATED = re.compile(r"'related': \{[^{}]*\}(, )?")


def _json(line: str) -> dict[str, Any]:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise LineError(f"malformed JSON ({error})") from error
    if not isinstance(value, dict):
        raise LineError(f"a JSON {type(value).__name__}, not an object")
    return value


def _evaluate(text: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an odd escape such as "\d" is no news here
            return ast.literal_eval(text)
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


def _reader(lines: Sequence[str]) -> tuple[Callable[[str], dict[str, Any]], dict[str, Any]] | None:
    """How the lines are written, and the first that can be read; None if they are no objects."""
    for line in lines:
        if not line.startswith("{"):
            continue
        for read in (_json, _literal):
            try:
                return read, read(line)
            except LineError:
                continue
    return None


def events(lines: Sequence[str]) -> EventFormat | None:
    """The format of a file of reviews; None if the objects are no reviews."""
    found = _reader(lines)
    if found is None:
        return None
    read, first = found
    if "parent_asin" in first and "user_id" in first:
        name, user, item, time = "Amazon reviews 2023", "user_id", "parent_asin", "timestamp"
    elif "reviewerID" in first:
        name, user, item, time = "Amazon reviews", "reviewerID", "asin", "unixReviewTime"
    else:
        return None
    unit_ms = unit_of([first[time]] if type(first.get(time)) in (int, float) else [])

    def parse(line: str) -> Event:
        review = read(line)
        return Event(
            text_id(review.get(user), user),
            text_id(review.get(item), item),
            milliseconds(review.get(time), unit_ms),
        )

    return EventFormat(name, 0, parse)


def _category(record: dict[str, Any]) -> str:
    """The second level of the first path of categories, or the best there is above it."""
    path = record.get("categories") or record.get("category") or []
    if isinstance(path, list) and path and isinstance(path[0], list):
        path = path[0]
    names = [name for name in path if isinstance(name, str)] if isinstance(path, list) else [path]
    names = names or [record.get("main_category") or record.get("main_cat")]
    return html.unescape(plain_text(names[1] if len(names) > 1 else names[0]))


def items(lines: Sequence[str]) -> EntryFormat | None:
    """The format of a file of metadata; None if the objects are something else."""
    found = _reader(lines)
    if found is None:
        return None
    read, first = found
    if "reviewerID" in first or "user_id" in first:
        return None
    key = "parent_asin" if "parent_asin" in first else "asin"
    if key not in first:
        return None

    def parse(line: str) -> Entry:
        record = read(line)
        asin = text_id(record.get(key), key)
        return Entry(asin, html.unescape(plain_text(record.get("title"))), _category(record), asin)

    return EntryFormat("Amazon metadata", 0, parse, quoted=False, repeats=True)
