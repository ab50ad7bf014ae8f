"""What every reader makes of a line, and the parsing they share."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from replay.errors import LineError

LARGEST_ID = 2**63 - 1
LONGEST_ID = 256
LONGEST_TITLE = 1000
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
SMALLEST_IN_MS = 100_000_000_000
"""As seconds this is the year 5138, as milliseconds 1973: it tells the two units apart."""


class Event(NamedTuple):
    """A click as it stands in the file: `time_ms` in milliseconds since 1970."""

    user: str
    item: str
    time_ms: int


class Entry(NamedTuple):
    """A catalogue item as it stands in the file; the last three may be empty."""

    item: str
    title: str
    category: str
    external_id: str


@dataclass(frozen=True)
class EventFormat:
    """How to read a file of events.

    Attributes:
        name: for messages.
        header: number of header lines.
        parse: makes an event of a line, or raises `LineError`.
    """

    name: str
    header: int
    parse: Callable[[str], Event]


@dataclass(frozen=True)
class EntryFormat:
    """How to read a catalogue.

    Attributes:
        name: for messages.
        header: number of header lines.
        parse: makes an entry of a record, or raises `LineError`.
        quoted: whether a quoted field may hold line ends.
        repeats: whether an item may appear again (Amazon's metadata of 2018 does that); the first
            entry is kept and the later ones are bad lines. Elsewhere it is an error.
    """

    name: str
    header: int
    parse: Callable[[str], Entry]
    quoted: bool
    repeats: bool


def number(text: str) -> int | float:
    """A finite decimal number.

    Raises:
        LineError: if the text is something else.
    """
    text = text.strip()
    if text.isdigit() and text.isascii():
        return int(text) if len(text) < 30 else math.inf
    if not _NUMBER.fullmatch(text):
        raise LineError(f"time {text[:40]!r} is not a number")
    return float(text)


def milliseconds(value: Any, unit_ms: int) -> int:
    """A time as text or number in units of `unit_ms` milliseconds -> milliseconds.

    Raises:
        LineError: if it is no number.
    """
    if isinstance(value, str):
        value = number(value)
    if type(value) not in (int, float):
        raise LineError(f"time {value!r} is not a number")
    if not math.isfinite(value):
        raise LineError("time is not a finite number")
    return int(value * unit_ms) if type(value) is int else round(value * unit_ms)


def unit_of(times: Iterable[str | int | float]) -> int:
    """Milliseconds per unit of a column of times, 1 or 1000, by the size of its median."""
    values = []
    for time in times:
        try:
            values.append(number(time) if isinstance(time, str) else time)
        except LineError:
            continue
    return 1 if values and sorted(values)[len(values) // 2] >= SMALLEST_IN_MS else 1000


def integer_id(text: str, field: str) -> str:
    """An id that must be a number, in its canonical form.

    Raises:
        LineError: if it is text, negative, or does not fit in 63 bits.
    """
    text = text.strip()
    if text.isdigit() and text.isascii():
        if len(text) < 19 and (text[0] != "0" or len(text) == 1):
            return text
        if len(text) < 30 and int(text) <= LARGEST_ID:
            return str(int(text))
        raise LineError(f"{field} {text[:40]} does not fit in 63 bits")
    if text[:1] == "-" and text[1:].isdigit():
        raise LineError(f"{field} {text[:40]} is negative")
    raise LineError(f"{field} {text[:40]!r} is not an integer")


def text_id(value: Any, field: str) -> str:
    """An id that may be any short text.

    Raises:
        LineError: if it is missing, not text, or too long.
    """
    if not isinstance(value, str):
        raise LineError(f"{field} is {'missing' if value is None else 'not text'}")
    value = value.strip()
    if not value or len(value) > LONGEST_ID:
        raise LineError(f"{field} is {'empty' if not value else 'too long'}")
    if not value.isascii() and _clean(value) != value:
        raise LineError(f"{field} is not valid Unicode")
    return value


def plain_text(value: Any) -> str:
    """A title or category on one line, bounded; empty for anything that is not text."""
    if not isinstance(value, str):
        return ""
    return _clean(" ".join(value.replace("\0", " ").split())[:LONGEST_TITLE])


def _clean(text: str) -> str:
    # Half of a surrogate pair can be written as an escape, but not encoded.
    return text.encode("utf-8", "replace").decode()
