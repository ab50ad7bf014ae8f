"""RecBole's atomic files: tab-separated, with a header of `name:type` fields.

`.inter` holds interactions (user_id, item_id, timestamp in seconds or milliseconds), `.item` the
items. Tokens may be numbers or any text. Source: https://recbole.io/docs/user_guide/data/atomic_files.html.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from replay.errors import LineError, ReplayError
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

_FIELD = re.compile(r"[\w.-]+:(token|token_seq|float|float_seq)")
TITLES = ("title", "item_name", "name", "movie_title")
CATEGORIES = ("categories", "category", "class", "genre")


def header(line: str) -> list[str] | None:
    """The field names without their types, or None if the line is no such header."""
    fields = [field.strip() for field in line.split("\t")]
    if all(_FIELD.fullmatch(field) for field in fields):
        return [field.split(":")[0].lower() for field in fields]
    return None


def events(lines: Sequence[str]) -> EventFormat | None:
    """The format of an `.inter` file; None if the header names no user.

    Raises:
        ReplayError: if there is no timestamp.
    """
    names = header(lines[0])
    if names is None or "user_id" not in names or "item_id" not in names:
        return None
    if "timestamp" not in names:
        raise ReplayError(
            f"no timestamp among the fields {', '.join(names)}: a replay needs to know when each "
            "event happened; export the file with timestamp:float"
        )
    user, item, time = (names.index(name) for name in ("user_id", "item_id", "timestamp"))
    width = max(user, item, time) + 1
    rows = [line.split("\t") for line in lines[1:]]
    unit_ms = unit_of(row[time] for row in rows if len(row) > time)

    def parse(line: str) -> Event:
        f = line.split("\t")
        if len(f) < width:
            raise LineError(f"a column is missing: {len(f)} of at least {width}")
        return Event(
            text_id(f[user], "user_id"), text_id(f[item], "item_id"), milliseconds(f[time], unit_ms)
        )

    return EventFormat("RecBole interactions", 1, parse)


def _second(categories: str) -> str:
    levels = [level.strip(" '\"[]") for level in categories.split(",")]
    return levels[1] if len(levels) > 1 else levels[0]


def items(lines: Sequence[str]) -> EntryFormat | None:
    """The format of an `.item` file; None if the header is another's."""
    names = header(lines[0])
    if names is None or "item_id" not in names or "user_id" in names:
        return None
    item = names.index("item_id")
    title = next((names.index(name) for name in TITLES if name in names), None)
    category = next((names.index(name) for name in CATEGORIES if name in names), None)
    width = len(names)

    def parse(line: str) -> Entry:
        f = line.split("\t")
        if len(f) != width:
            raise LineError(f"{len(f)} columns, the header has {width}")
        key = text_id(f[item], "item_id")
        return Entry(
            key,
            "" if title is None else plain_text(f[title]),
            "" if category is None else plain_text(_second(f[category])),
            "" if key.isdigit() else key,
        )

    return EntryFormat("RecBole items", 1, parse, quoted=False, repeats=False)
