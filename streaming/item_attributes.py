"""What a shop says of an item beside its title and category: names, each with a value of one type.

    "attributes": {"brand": "Pelfen", "price": 12.5, "in_stock": true, "sizes": ["S", "M"],
                   "released": {"time": "2026-11-29T10:00:00Z"}}

A text is never taken for a time: a time is an object with the one field `time`, milliseconds since
1970 or a date and time with its zone (RFC 3339). Inside it is in milliseconds; a record says it as
text where a number would be refused, as of a book of 1965. A name has the same type at all items
that have it; whoever indexes the items holds to that, as no single record can.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sized
from datetime import UTC, datetime
from typing import Any, Literal

from streaming.bounds import (
    EPOCH,
    LARGEST_ID,
    LATEST_MS,
    MILLISECOND,
    EventError,
    in_milliseconds,
    since_epoch_ms,
)

Value = str | int | float | bool | list[str] | dict[str, int]
"""Of an attribute: as it stands in a record; a time is `{"time": milliseconds}`."""
Kind = Literal["string", "number", "boolean", "strings", "time"]

MOST_ATTRIBUTES = 64
"""Of one item."""
LONGEST_ATTRIBUTE = 64
"""Bytes of an attribute's name."""
LONGEST_VALUE = 1024
"""Bytes of a text, also of one in a list."""
MOST_ENTRIES = 64
"""Of a list."""
MOST_NAMES = 256
"""Of all items together."""
RESERVED = frozenset({"category"})
"""Names that a filter knows already."""
TIME = "time"
EARLIEST_MS = since_epoch_ms(datetime(1, 1, 1, tzinfo=UTC))


def attributes(value: Any, field: str = "attributes") -> dict[str, Value]:
    """The attributes of a record, times in milliseconds.

    Raises:
        EventError: naming the attribute that is none, or out of bounds.
    """
    if not isinstance(value, dict):
        raise EventError(f"{field} is {type(value).__name__}, not an object")
    require_few(value, field)
    return {_name(field, name): _value(f"{field}.{name}", one) for name, one in value.items()}


def require_few(value: Sized, field: str = "attributes") -> None:
    """Refuse more than an item may have.

    Raises:
        EventError: if there are.
    """
    if len(value) > MOST_ATTRIBUTES:
        raise EventError(f"{field} holds {len(value)}, at most {MOST_ATTRIBUTES}")


def as_said(found: Mapping[str, Value]) -> dict[str, Any]:
    """Attributes as a record says them, so that `attributes` reads them as they are.

    >>> as_said({"a": {"time": 1_764_410_400_000}, "b": {"time": -157_766_400_000}})
    {'a': {'time': 1764410400000}, 'b': {'time': '1965-01-01T00:00:00.000+00:00'}}
    """
    return {name: _said(one) if isinstance(one, dict) else one for name, one in found.items()}


def _said(value: dict[str, int]) -> dict[str, Any]:
    try:
        in_milliseconds(TIME, value[TIME])
    except EventError:
        return {TIME: (EPOCH + value[TIME] * MILLISECOND).isoformat(timespec="milliseconds")}
    return value


def kind_of(value: Value) -> Kind:
    """The kind of a value.

    >>> [kind_of(one) for one in ("a", 1.5, True, ["a"], {"time": 0})]
    ['string', 'number', 'boolean', 'strings', 'time']
    """
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, str):
        return "string"
    if isinstance(value, list):
        return "strings"
    return "time" if isinstance(value, dict) else "number"


def _name(field: str, name: str) -> str:
    if not name or len(name.encode()) > LONGEST_ATTRIBUTE:
        raise EventError(f"{field}: {name[:60]!r} is no name of 1 to {LONGEST_ATTRIBUTE} bytes")
    if name in RESERVED or any(ord(letter) < 32 for letter in name):
        raise EventError(f"{field}.{name[:60]}: an attribute cannot have this name")
    return name


def _value(field: str, value: Any) -> Value:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(field, value)
    if isinstance(value, int | float):
        if isinstance(value, int) and not -LARGEST_ID <= value <= LARGEST_ID:
            raise EventError(f"{field} does not fit 64 bits")
        if not math.isfinite(value):
            raise EventError(f"{field} is {value}, not a finite number")
        return value
    if isinstance(value, list):
        if len(value) > MOST_ENTRIES:
            raise EventError(f"{field} holds {len(value)}, at most {MOST_ENTRIES}")
        for at, one in enumerate(value):
            if not isinstance(one, str):
                raise EventError(f"{field}.{at} is {type(one).__name__}, not a string")
            _text(f"{field}.{at}", one)
        return value
    if isinstance(value, dict) and value.keys() == {TIME}:
        return {TIME: _time(f"{field}.{TIME}", value[TIME])}
    raise EventError(
        f"{field} is no text, number, truth value, list of texts, or object with a time alone"
    )


def _text(field: str, value: str) -> str:
    if (size := len(value.encode())) > LONGEST_VALUE:
        raise EventError(f"{field} is {size} bytes long, at most {LONGEST_VALUE}")
    return value


def _time(field: str, value: Any) -> int:
    """Milliseconds since 1970; a text may also name a time before it."""
    if type(value) is int:
        return in_milliseconds(field, value)
    if isinstance(value, str):
        try:
            found: datetime | None = datetime.fromisoformat(value)
        except ValueError:
            found = None
        if found is not None and found.tzinfo is not None:
            time_ms = since_epoch_ms(found)
            if EARLIEST_MS <= time_ms <= LATEST_MS:
                return time_ms
    raise EventError(f"{field} is no milliseconds since 1970, nor a time with its zone (RFC 3339)")
