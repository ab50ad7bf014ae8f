"""What can be wrong with a log: one line of it, or the whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

LONGEST_SHOWN = 80
"""Characters of a value that a message quotes."""


class ReplayError(ValueError):
    """A log cannot be replayed; the message says what, where (file, line) and the remedy."""


class LineError(ValueError):
    """One line cannot be used; the message is the reason, without file and line."""


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that was left out.

    Attributes:
        file: the file as it was given.
        line: 1-based line number in the unpacked text.
        reason: what is wrong with it.
    """

    file: Path
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file} line {self.line}: {self.reason}"


def shown(value: Any) -> str:
    """A value of the file as a message quotes it: a file may hold megabytes where an id belongs.

    >>> shown("soon"), shown(None), len(shown("x" * 1_000_000))
    ("'soon'", 'None', 80)
    """
    text = repr(value[:LONGEST_SHOWN] if isinstance(value, str) else value)
    if len(text) > LONGEST_SHOWN or (isinstance(value, str) and len(value) > LONGEST_SHOWN):
        return f"{text[: LONGEST_SHOWN - 1]}…"
    return text
