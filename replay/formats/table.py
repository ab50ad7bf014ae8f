"""Tables: a line a record, fields separated by commas, tabs, semicolons, bars or double colons.

    with a header         the columns that `columns` knows, in any order
    ratings_X.csv (2014)  user, item, rating, time; with or without a header
    X.csv (2018)          item, user, rating, time; no header
    X.csv (2023)          header user_id,parent_asin,rating,timestamp[,history]; milliseconds
    UserBehavior.csv      Taobao: user, item, category, pv|cart|fav|buy, seconds; no header

Sources: https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html,
https://cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2/, https://amazon-reviews-2023.github.io/,
https://tianchi.aliyun.com/dataset/649.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence

from replay.errors import LineError, ReplayError
from replay.formats.categories import category_of
from replay.formats.columns import EntryColumns, EventColumns, entry_columns, event_columns, listed
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

SEPARATORS = (",", "\t", ";", "|", "::")
BEHAVIOURS = frozenset({"pv", "cart", "fav", "buy"})
_ASIN = re.compile(r"[0-9B][0-9A-Z]{9}|[0-9]{1,9}[0-9X]")
_REVIEWER = re.compile(r"A[0-9A-Z]{8,}|#oc-[0-9A-Z]+")
_NUMBER = re.compile(r"\d+(\.\d+)?([eE]\+?\d+)?", re.ASCII)


def split(line: str, separator: str = ",") -> list[str]:
    """The fields of one record.

    Raises:
        LineError: if its quoting is broken.
    """
    if '"' not in line or len(separator) > 1:
        return line.split(separator)
    try:
        return next(csv.reader([line], strict=True, delimiter=separator))
    except (csv.Error, StopIteration) as error:
        raise LineError(f"broken quoting ({error})") from error


def is_open(record: bytes, separator: str) -> bool:
    """Whether the record ends within a quoted field, which then goes on in the next line."""
    if record.count(b'"') % 2 == 0 or len(separator) > 1:
        return False
    try:
        next(csv.reader([record.decode("utf-8", "replace")], strict=True, delimiter=separator))
    except csv.Error:
        return True
    return False


def _headers(line: str) -> list[tuple[str, list[str]]]:
    """The first line by each separator that it holds."""
    found = []
    for separator in SEPARATORS:
        if separator in line:
            try:
                names = [name.strip() for name in split(line, separator)]
            except LineError:
                continue
            found.append((separator, names))
    return found or [(",", [line.strip().strip('"')])]


def _rows(lines: Sequence[str], separator: str) -> list[list[str]]:
    rows = []
    for line in lines:
        try:
            rows.append(split(line, separator))
        except LineError:
            continue
    return rows


def _event_format(
    name: str,
    names: Sequence[str],
    columns: EventColumns,
    rows: Sequence[Sequence[str]],
    separator: str,
    header: int,
) -> EventFormat:
    user, item, time, kind = columns.user, columns.item, columns.time, columns.event_type
    user_name, item_name = names[user][:40], names[item][:40]
    form = time_form((row[time] for row in rows if len(row) > time), names[time][:40])
    milliseconds, width = form.milliseconds, columns.width

    def parse(line: str) -> Event:
        f = split(line, separator)
        if len(f) < width:
            raise LineError(f"a column is missing: {len(f)} of at least {width}")
        event = (
            shop_id(f[user], user_name),
            shop_id(f[item], item_name),
            milliseconds(f[time]),
        )
        if kind is None or kind >= len(f):
            return Event(*event)
        return Event(*event, event_type(f[kind]))

    return EventFormat(name, header, parse, columns.note(names, form.name), separator)


def events_with_header(lines: Sequence[str]) -> EventFormat | None:
    """The format of a table whose first line names user, item and time; None if it does not.

    Raises:
        ReplayError: if one of them is missing, or two columns could be meant.
    """
    for separator, names in _headers(lines[0]):
        if columns := event_columns(names):
            rows = _rows(lines[1:], separator)
            return _event_format("events table", names, columns, rows, separator, 1)
    return None


def events_without_header(lines: Sequence[str]) -> EventFormat | None:
    """The format of Amazon's bare ratings and Taobao's behaviours; None if it is neither.

    Raises:
        ReplayError: if user and item cannot be told apart.
    """
    for separator in SEPARATORS:
        if separator not in lines[0]:
            continue
        rows = _rows(lines, separator)
        if _most(rows, _is_behaviour):
            names = ["user", "item", "category", "behaviour", "time"]
            columns = EventColumns(0, 1, 4, 3)
            rows = [row for row in rows if _is_behaviour(row)]
            return _event_format("Taobao's behaviours", names, columns, rows, separator, 0)
        if _most(rows, _is_rating):
            return _ratings([row for row in rows if _is_rating(row)], separator)
    return None


def _most(rows: Sequence[Sequence[str]], fits: Callable[[Sequence[str]], bool]) -> bool:
    return bool(rows) and fits(rows[0]) and sum(map(fits, rows)) * 2 >= len(rows)


def _is_behaviour(row: Sequence[str]) -> bool:
    return len(row) == 5 and row[3] in BEHAVIOURS and bool(_NUMBER.fullmatch(row[4]))


def _is_rating(row: Sequence[str]) -> bool:
    numbers = len(row) >= 4 and _NUMBER.fullmatch(row[2]) and _NUMBER.fullmatch(row[3])
    return bool(numbers) and 0 <= float(row[2]) <= 5


def _ratings(rows: Sequence[Sequence[str]], separator: str) -> EventFormat:
    def evidence(user: int, item: int) -> int:
        # An ASIN such as B000AAAAAA cannot be a reviewer, and a reviewer is longer than an ASIN.
        return sum(
            bool(_REVIEWER.fullmatch(row[user])) + bool(_ASIN.fullmatch(row[item])) for row in rows
        )

    votes_2014, votes_2018 = evidence(0, 1), evidence(1, 0)
    if votes_2014 == votes_2018:
        raise ReplayError(
            "there is no header, and users and items look alike: add a first line that names the "
            "columns, such as user_id,item_id,rating,timestamp"
        )
    user, item = (0, 1) if votes_2014 > votes_2018 else (1, 0)
    names = ["user", "item"] if user == 0 else ["item", "user"]
    return _event_format(
        f"Amazon ratings ({', '.join(names)})",
        [*names, "rating", "time"],
        EventColumns(user, item, 3, None),
        rows,
        separator,
        0,
    )


def unknown_header(line: str) -> str:
    """What a first line names, for a message, if it can be a header; else empty."""
    for _, names in _headers(line):
        if len(names) > 1 and not any(_NUMBER.fullmatch(name) for name in names):
            return listed(names)
    return ""


def items_with_header(lines: Sequence[str]) -> EntryFormat | None:
    """The format of a catalogue table; None if the first line does not name an item column.

    Raises:
        ReplayError: if two columns could hold the items' ids.
    """
    for separator, names in _headers(lines[0]):
        if columns := entry_columns(names):
            return _entry_format(names, columns, separator)
    return None


def _entry_format(names: Sequence[str], columns: EntryColumns, separator: str) -> EntryFormat:
    width, item, external = len(names), columns.item, columns.external
    item_name = names[item][:40]

    def parse(record: str) -> Entry:
        f = split(record, separator)
        if len(f) != width:
            raise LineError(f"{len(f)} columns, the header has {width}")
        titles = (plain_text(f[at]) for at in columns.titles)
        category = category_of(f[at] for at in columns.categories)
        return Entry(
            shop_id(f[item], item_name),
            next(filter(None, titles), ""),
            "" if category == "0" else category,
            "" if external is None else second_id(f[external]),
        )

    return EntryFormat("items table", 1, parse, columns.note(names), separator)
