"""The fields of a record, each within bounds that every reader and every store can hold.

A record that is within them can be trained on, stored, indexed and shown; one that is not is
refused, with the field and the reason, before anybody has stored any of it. The job applies the
same bounds in Java (`Click.java`).

Times are milliseconds since 1970, up to the year 9999. A number that is a date between 1990 and
2100 when it is read as microseconds or nanoseconds was meant as that, and is refused by name. So
are seconds, but where a log is replayed: read as milliseconds, the seconds of those years are the
days from 8 January to 17 February 1970, as the times of a log may well be that only counts its
events. So the job refuses them unless the record is one of the replay, the service refuses them in
a query, and who reads further down the stream takes them.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

LONGEST_VALUE = 1 << 20
"""Bytes of a whole record."""
LONGEST_NAME = 1024
"""Bytes of an event id, an event type, or a shop's own item id."""
LONGEST_TEXT = 8192
"""Bytes of a title or a category."""
LARGEST_ID = 2**63 - 1
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)
DAY_MS = 86_400_000
"""A day, as times are counted."""
LATEST_MS = 253_402_300_799_999
"""The last millisecond of the year 9999."""
MISTAKEN_FOR_SECONDS = (631_152_000, 4_102_444_800)
"""1990 and 2100, in seconds."""
FINER_UNITS = (("microseconds", 10**6), ("nanoseconds", 10**9))
INTEGERS = frozenset({int})
"""Types of an integer: a truth value is none."""
SHOWN = 60


class EventError(ValueError):
    """A record breaks its schema; the message names the field."""


def since_epoch_ms(moment: datetime) -> int:
    """Milliseconds since 1970 of a time with a zone, rounded down; no floats are in between."""
    return (moment - EPOCH) // MILLISECOND


def json_object(value: bytes | None) -> dict[str, Any]:
    """The object that a record's value is."""
    if value is None:
        raise EventError("no value")
    if len(value) > LONGEST_VALUE:
        raise EventError(f"value is {len(value)} bytes long, at most {LONGEST_VALUE}")
    try:
        record = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise EventError(f"not JSON: {error}") from error
    if not isinstance(record, dict):
        raise EventError(f"not a JSON object but {type(record).__name__}")
    return record


def integer(record: dict[str, Any], field: str, least: int = -LARGEST_ID - 1) -> int:
    """An integer of 64 bits that is not below `least`."""
    value = record.get(field)
    if type(value) is not int:
        raise EventError(f"{field} is {_shown(value)}, not an integer")
    return within_64_bits(field, value, least)


def time_ms(record: dict[str, Any], field: str) -> int:
    """A time in milliseconds since 1970."""
    return _time(field, integer(record, field, least=0))


def integers(record: dict[str, Any], field: str, most: int, least: int) -> list[int]:
    """A list of at most `most` integers of 64 bits, none below `least`."""
    value = record.get(field)
    if not isinstance(value, list) or not INTEGERS.issuperset(map(type, value)):
        raise EventError(f"{field} is not a list of integers")
    if len(value) > most:
        raise EventError(f"{field} holds {len(value)}, at most {most}")
    if value:
        within_64_bits(field, min(value), least)
        within_64_bits(field, max(value), least)
    return value


def times_ms(record: dict[str, Any], field: str, most: int) -> list[int]:
    """A list of at most `most` times in milliseconds."""
    return [_time(field, time) for time in integers(record, field, most, 0)]


def text(record: dict[str, Any], field: str, longest: int, default: str | None = None) -> str:
    """A string of at most `longest` bytes in UTF-8."""
    value = record.get(field, default)
    if not isinstance(value, str):
        raise EventError(f"{field} is {_shown(value)}, not a string")
    # A character has at most four bytes, so mostly nothing is encoded to be counted.
    if len(value) * 4 > longest and (size := len(value.encode())) > longest:
        raise EventError(f"{field} is {size} bytes long, at most {longest}")
    return value


def in_milliseconds(field: str, time: int) -> int:
    """The time of a live source, if it is one in milliseconds.

    >>> in_milliseconds("event_time", 1_400_000_000_000)
    1400000000000
    >>> in_milliseconds("event_time", 1_400_000_000)
    Traceback (most recent call last):
    streaming.bounds.EventError: event_time 1400000000 looks like seconds, milliseconds expected

    Raises:
        EventError: for one in another unit, beyond the year 9999, or before 1970.
    """
    first, last = MISTAKEN_FOR_SECONDS
    if first <= time < last:
        raise EventError(f"{field} {time} looks like seconds, milliseconds expected")
    return _time(field, time)


def _time(field: str, time: int) -> int:
    """The time, unless it is before 1970 or beyond the year 9999."""
    if time < 0:
        raise EventError(f"{field} {time} is negative")
    first, last = MISTAKEN_FOR_SECONDS
    for unit, per_second in FINER_UNITS:
        if first * per_second <= time < last * per_second:
            raise EventError(f"{field} {time} looks like {unit}, milliseconds expected")
    if time > LATEST_MS:
        raise EventError(f"{field} {time} is beyond the year 9999")
    return time


def within_64_bits(field: str, value: int, least: int) -> int:
    """The integer, unless it is below `least` or does not fit."""
    if value < least:
        problem = "is negative" if least == 0 else f"is below {least}"
        if value < -LARGEST_ID - 1:
            problem = "does not fit 64 bits"
        raise EventError(f"{field} {value} {problem}")
    if value > LARGEST_ID:
        raise EventError(f"{field} {value} does not fit 64 bits")
    return value


def _shown(value: Any) -> str:
    """A value for a message; of a long one its beginning."""
    shown = repr(value[:SHOWN] if isinstance(value, (str, list)) else value)
    return shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."
