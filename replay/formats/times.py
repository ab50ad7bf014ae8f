"""What a column of times holds, decided by its content: a number of some unit, or ISO 8601.

1569888000, 1569888000.5     seconds since 1970; milli-, micro- and nanoseconds by their size
20191001                     a day
2019-10-01 00:00:00 UTC      ISO 8601, with or without a zone; without one it is UTC
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from replay.errors import LineError, ReplayError, shown
from streaming.bounds import since_epoch_ms

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_ZONE = re.compile(r"\s*(?:UTC|GMT|Z|([+-]\d\d:?\d\d))$", re.IGNORECASE)
UNITS = (
    ("seconds", 10**11, 1000, 1),
    ("milliseconds", 10**14, 1, 1),
    ("microseconds", 10**17, 1, 1000),
    ("nanoseconds", 10**29, 1, 10**6),
)
"""Name, size from which on it is the next unit (the year 5138), and milliseconds as a fraction."""
DAYS = range(19_950_101, 21_001_232)
"""Days as YYYYMMDD; as seconds they would lie in 1970."""


@dataclass(frozen=True)
class TimeForm:
    """How a column writes its times.

    Attributes:
        name: for messages.
        milliseconds: makes milliseconds since 1970 of a value, or raises `LineError`.
    """

    name: str
    milliseconds: Callable[[Any], int]


def time_form(values: Iterable[Any], column: str) -> TimeForm:
    """What a column holds, by what most of its first values are.

    Args:
        values: texts or numbers; what is neither is passed over.
        column: its name, for messages.

    Raises:
        ReplayError: if there are values and none is a time.
    """
    numbers, texts, other = [], 0, ""
    for value in values:
        try:
            numbers.append(_number(value))
            continue
        except LineError:
            pass
        try:
            _iso(value)
            texts += 1
        except LineError:
            other = other or (value if isinstance(value, str) else "")
    if texts > len(numbers):
        return TimeForm("text, in UTC where it names no zone", _iso)
    if not numbers and other.strip():
        raise ReplayError(
            f"the column {column} holds {shown(other)}, which is no time that is known: write "
            "seconds, milliseconds, microseconds or nanoseconds since 1970, or ISO 8601 such as "
            "2019-10-01T12:30:00Z"
        )
    middle = sorted(numbers)[len(numbers) // 2] if numbers else 0
    if middle in DAYS:
        return TimeForm("days", _day)
    name, _, times, over = next(unit for unit in UNITS if abs(middle) < unit[1])

    def milliseconds(value: Any) -> int:
        if isinstance(value, str) and value.isdigit() and value.isascii() and len(value) < 30:
            return int(value) * times // over  # nearly every line
        return _scaled(_number(value), times, over)

    return TimeForm(name, milliseconds)


def _number(value: Any) -> int | float:
    if isinstance(value, str):
        text = value.strip()
        if text.isdigit() and text.isascii():
            return int(text) if len(text) < 30 else _not_finite()
        if not _NUMBER.fullmatch(text[:100]):
            raise LineError(f"time {shown(value)} is not a number")
        value = float(text)
    if type(value) not in (int, float):
        raise LineError(f"time {shown(value)} is not a number")
    return value if math.isfinite(value) and abs(value) < UNITS[-1][1] else _not_finite()


def _not_finite() -> int:
    raise LineError("time is not a finite number")


def _scaled(value: int | float, times: int, over: int) -> int:
    return value * times // over if type(value) is int else round(value * times / over)


def _iso(value: Any) -> int:
    text = value.strip() if isinstance(value, str) else ""
    if not 8 <= len(text) <= 40 or text.isdigit():
        raise LineError(f"time {shown(value)} is not ISO 8601")
    try:
        moment = datetime.fromisoformat(_ZONE.sub(r"\1", text))
    except ValueError:
        raise LineError(f"time {shown(value)} is not ISO 8601") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return since_epoch_ms(moment)


def _day(value: Any) -> int:
    number = _number(value)
    try:
        return since_epoch_ms(datetime.strptime(f"{number:.0f}", "%Y%m%d").replace(tzinfo=UTC))
    except ValueError:
        raise LineError(f"time {shown(value)} is not a day") from None
