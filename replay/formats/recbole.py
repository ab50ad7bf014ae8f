"""RecBole's atomic files: tab-separated, with a header of `name:type` fields.

`.inter` holds interactions (user_id, item_id, timestamp), `.item` the items. Tokens may be numbers
or any text. Source: https://recbole.io/docs/user_guide/data/atomic_files.html.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from replay.errors import LineError
from replay.formats.categories import second
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

_FIELD = re.compile(r"[\w.-]+:(token|token_seq|float|float_seq)")


def header(line: str) -> list[str] | None:
    """The field names without their types, or None if the line is no such header."""
    fields = [field.strip() for field in line.split("\t")]
    if all(_FIELD.fullmatch(field) for field in fields):
        return [field.split(":")[0] for field in fields]
    return None


def events(lines: Sequence[str]) -> EventFormat | None:
    """The format of an `.inter` file; None if the header names no user.

    Raises:
        ReplayError: if a column is missing, or two could be meant.
    """
    names = header(lines[0])
    columns = None if names is None else event_columns(names)
    if names is None or columns is None:
        return None
    user, item, time, kind = columns.user, columns.item, columns.time, columns.event_type
    rows = [line.split("\t") for line in lines[1:]]
    form = time_form((row[time] for row in rows if len(row) > time), names[time])

    def parse(line: str) -> Event:
        f = line.split("\t")
        if len(f) < columns.width:
            raise LineError(f"a column is missing: {len(f)} of at least {columns.width}")
        return Event(
            shop_id(f[user], names[user]),
            shop_id(f[item], names[item]),
            form.milliseconds(f[time]),
            event_type(None if kind is None or kind >= len(f) else f[kind]),
        )

    return EventFormat("RecBole interactions", 1, parse, columns.note(names, form.name))


def items(lines: Sequence[str]) -> EntryFormat | None:
    """The format of an `.item` file; None if the header is another's.

    Raises:
        ReplayError: if two columns could hold the items' ids.
    """
    names = header(lines[0])
    columns = None if names is None else entry_columns(names)
    if names is None or columns is None:
        return None
    width = len(names)

    def parse(line: str) -> Entry:
        f = line.split("\t")
        if len(f) != width:
            raise LineError(f"{len(f)} columns, the header has {width}")
        categories = (
            second([level.strip(" '\"[]") for level in f[at].split(",")])
            for at in columns.categories
        )
        return Entry(
            shop_id(f[columns.item], names[columns.item]),
            next(filter(None, (plain_text(f[at]) for at in columns.titles)), ""),
            next(filter(None, categories), ""),
            "" if columns.external is None else second_id(f[columns.external]),
        )

    return EntryFormat("RecBole items", 1, parse, columns.note(names))
