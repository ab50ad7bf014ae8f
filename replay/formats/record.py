"""What every reader makes of a line, and the parsing they share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from replay.errors import LineError, shown
from replay.formats.markup import readable
from streaming.events import CLICK, HEARTBEAT
from streaming.ids import LONGEST_ID

LONGEST_TITLE = 1000
LONGEST_TYPE = 64
NOBODY = frozenset({"null", "nan", "none", "undefined", "\\n", "<na>", "(null)"})
"""What databases and data frames write where there is no value: nobody is called so."""


class Event(NamedTuple):
    """An event as it stands in the file: `time_ms` in milliseconds since 1970."""

    user: str
    item: str
    time_ms: int
    event_type: str = CLICK


class Entry(NamedTuple):
    """A catalogue item as it stands in the file; the last three may be empty.

    `external_id` is the shop's own id where that is another column than `item`.
    """

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
        note: which columns are used as what, in words.
        separator: of a table whose quoted fields may hold line ends, else empty.
    """

    name: str
    header: int
    parse: Callable[[str], Event]
    note: str
    separator: str = ""


@dataclass(frozen=True)
class EntryFormat:
    """How to read a catalogue.

    Attributes:
        name: for messages.
        header: number of header lines.
        parse: makes an entry of a record, or raises `LineError`.
        note: which columns are used as what, in words.
        separator: of a table whose quoted fields may hold line ends, else empty.
        repeats: whether an item may appear again (Amazon's metadata of 2018 does that); the first
            entry is kept and the later ones are bad lines. Elsewhere it is an error.
    """

    name: str
    header: int
    parse: Callable[[str], Entry]
    note: str
    separator: str = ""
    repeats: bool = False


def shop_id(value: Any, field: str) -> str:
    """An id as the shop wrote it: any text of up to 256 bytes, or a whole number.

    Raises:
        LineError: if it is missing, of another kind, negative (as -1 for nobody), or too long.
    """
    if not isinstance(value, str):
        value = _as_text(value, field)
    value = value.strip()
    if value.isdigit() and value.isascii() and len(value) <= LONGEST_ID:
        return value
    if not value or value.casefold() in NOBODY:
        raise LineError(f"{field} is missing ({value})" if value else f"{field} is empty")
    if not value.isascii() and _clean(value) != value:
        raise LineError(f"{field} is not valid Unicode")
    if (size := len(value.encode())) > LONGEST_ID:
        raise LineError(f"{field} is too long: {size:,} bytes, at most {LONGEST_ID}")
    if value[0] == "-" and value[1:].isdigit():
        raise LineError(f"{field} {shown(value)} is negative: nobody's id, in most exports")
    return value


def _as_text(value: Any, field: str) -> str:
    if type(value) is int or (type(value) is float and value.is_integer()):
        return str(int(value))
    what = "missing" if value is None else f"{shown(value)}, neither text nor a whole number"
    raise LineError(f"{field} is {what}")


def event_type(value: Any) -> str:
    """The type of an event, as the log names it; a click where it says nothing.

    Raises:
        LineError: if it is no short text, or the name that the replay's own clock uses.
    """
    if value is None:
        return CLICK
    if type(value) is int:
        return str(value)
    if not isinstance(value, str) or len(value) > LONGEST_TYPE:
        raise LineError(f"the type of event {shown(value)} is no short text")
    value = _clean(value.strip())
    if value == HEARTBEAT:
        raise LineError(f"the type of event {value} is the replay's own; name it otherwise")
    return value or CLICK


def second_id(value: Any) -> str:
    """The shop's own id in a column beside the item's: as it stands, or empty if it is none."""
    try:
        return shop_id(value, "")
    except LineError:
        return ""


def plain_text(value: Any) -> str:
    """A title or category on one line, without markup, bounded; empty for what is no text."""
    if not isinstance(value, str):
        return ""
    return _clean(" ".join(readable(value).replace("\0", " ").split())[:LONGEST_TITLE])


def _clean(text: str) -> str:
    if text.isascii():
        return text
    # Half of a surrogate pair can be written as an escape, but not encoded.
    return text.encode("utf-8", "replace").decode()
