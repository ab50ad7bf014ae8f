"""CSV: `events.csv` and `items.csv` with integer ids, and Amazon's ratings with text ids.

    events.csv            header with user_id, item_id, time (seconds), in any order
    items.csv             header with item_id and any of title, category, asin
    ratings_X.csv (2014)  user, item, rating, time; with or without a header
    X.csv (2018)          item, user, rating, time; no header
    X.csv (2023)          header user_id,parent_asin,rating,timestamp[,history]; milliseconds

Sources: https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html,
https://cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2/, https://amazon-reviews-2023.github.io/.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence

from replay.errors import LineError, ReplayError
from replay.formats.record import (
    Entry,
    EntryFormat,
    Event,
    EventFormat,
    integer_id,
    milliseconds,
    number,
    plain_text,
    text_id,
    unit_of,
)

USER = ("user_id", "userid", "reviewerid")
ITEM = ("item_id", "itemid", "productid", "parent_asin", "asin")
TIME = ("time", "timestamp", "unixreviewtime")
EXTERNAL = ("external_id", "asin", "parent_asin")
_ASIN = re.compile(r"[0-9B][0-9A-Z]{9}|[0-9]{1,9}[0-9X]")
_REVIEWER = re.compile(r"A[0-9A-Z]{8,}|#oc-[0-9A-Z]+")


def split(line: str) -> list[str]:
    """The fields of one CSV record.

    Raises:
        LineError: if its quoting is broken.
    """
    if '"' not in line:
        return line.split(",")
    try:
        return next(csv.reader([line], strict=True))
    except (csv.Error, StopIteration) as error:
        raise LineError(f"broken quoting ({error})") from error


def is_open(record: bytes) -> bool:
    """Whether the record ends within a quoted field, which then goes on in the next line."""
    if record.count(b'"') % 2 == 0:
        return False
    try:
        next(csv.reader([record.decode("utf-8", "replace")], strict=True))
    except csv.Error:
        return True
    return False


def _column(header: Sequence[str], names: Sequence[str]) -> int | None:
    return next((header.index(name) for name in names if name in header), None)


def _names(line: str) -> list[str]:
    try:
        return [name.strip().lower() for name in split(line)]
    except LineError:
        return []


def _is_number(text: str) -> bool:
    try:
        number(text)
    except LineError:
        return False
    return True


def _column_values(lines: Sequence[str], column: int) -> list[str]:
    values = []
    for line in lines:
        try:
            fields = split(line)
        except LineError:
            continue
        if len(fields) > column:
            values.append(fields[column])
    return values


def _event_parser(user: int, item: int, time: int, unit_ms: int, integer_ids: bool) -> EventFormat:
    width = max(user, item, time) + 1

    def fields_of(line: str) -> list[str]:
        fields = split(line)
        if len(fields) < width:
            raise LineError(f"a column is missing: {len(fields)} of at least {width}")
        return fields

    def parse_integers(line: str) -> Event:
        f = fields_of(line)
        return Event(
            integer_id(f[user], "user_id"),
            integer_id(f[item], "item_id"),
            milliseconds(f[time], unit_ms),
        )

    def parse_texts(line: str) -> Event:
        f = fields_of(line)
        return Event(
            text_id(f[user], "user id"), text_id(f[item], "item id"), milliseconds(f[time], unit_ms)
        )

    if integer_ids:
        return EventFormat("events table", 1, parse_integers)
    return EventFormat("ratings table", 1, parse_texts)


def events_with_header(lines: Sequence[str]) -> EventFormat | None:
    """The format of a table whose first line names user, item and time; None if it does not.

    Raises:
        ReplayError: if user and item are there but no time.
    """
    header = _names(lines[0])
    user, item, time = (_column(header, names) for names in (USER, ITEM, TIME))
    if user is None or item is None:
        return None
    if time is None:
        raise ReplayError(
            f"no time among the columns {', '.join(header)}: a replay needs to know when each "
            "event happened; add a column `time` (Unix seconds)"
        )
    unit_ms = unit_of(_column_values(lines[1:], time))
    integer_ids = header[user] == "user_id" and header[item] == "item_id"
    return _event_parser(user, item, time, unit_ms, integer_ids)


def ratings_without_header(lines: Sequence[str]) -> EventFormat | None:
    """The format of Amazon's bare ratings; None if the lines are something else.

    Raises:
        ReplayError: if user and item cannot be told apart.
    """
    rows = []
    for line in lines:
        try:
            row = split(line)
        except LineError:
            continue
        if len(row) >= 4 and _is_number(row[2]) and _is_number(row[3]) and 0 <= number(row[2]) <= 5:
            rows.append(row)
    if len(rows) * 2 < len(lines) or not rows:
        return None

    def evidence(user: int, item: int) -> int:
        # An ASIN such as B000AAAAAA cannot be a reviewer, and a reviewer is longer than an ASIN.
        return sum(
            bool(_REVIEWER.fullmatch(row[user])) + bool(_ASIN.fullmatch(row[item])) for row in rows
        )

    votes_2014, votes_2018 = evidence(0, 1), evidence(1, 0)
    if votes_2014 == votes_2018:
        raise ReplayError(
            "no header, and users and items look alike: add a first line that names the columns, "
            "such as user_id,item_id,rating,timestamp"
        )
    user, item = (0, 1) if votes_2014 > votes_2018 else (1, 0)
    described = _event_parser(user, item, 3, unit_of(row[3] for row in rows), integer_ids=False)
    name = "Amazon ratings (user, item)" if user == 0 else "Amazon ratings (item, user)"
    return EventFormat(name, 0, described.parse)


def items_with_header(lines: Sequence[str]) -> EntryFormat | None:
    """The format of a catalogue table; None if the first line does not name an item column."""
    header = _names(lines[0])
    item = _column(header, ITEM)
    if item is None or _column(header, USER) is not None:
        return None
    width = len(header)
    title, category, external = (
        _column(header, names) for names in (("title",), ("category",), EXTERNAL)
    )
    integer_ids = header[item] == "item_id"

    def text(fields: list[str], column: int | None) -> str:
        return "" if column is None else plain_text(fields[column])

    def parse(record: str) -> Entry:
        f = split(record)
        if len(f) != width:
            raise LineError(f"{len(f)} columns, the header has {width}")
        key = integer_id(f[item], "item_id") if integer_ids else text_id(f[item], "item id")
        group = text(f, category)
        shop_id = text(f, external) or ("" if integer_ids else key)
        return Entry(key, text(f, title), "" if group == "0" else group, shop_id)

    return EntryFormat("items table", 1, parse, quoted=True, repeats=False)
