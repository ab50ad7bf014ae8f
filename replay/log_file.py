"""The usable records of a log or a catalogue, in file order, with the bad lines set apart."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from replay.errors import BadLine, LineError, ReplayError
from replay.formats.recognition import recognise_events, recognise_items
from replay.formats.record import Entry, Event
from replay.formats.table import is_open
from replay.text_file import read_lines

EARLIEST_MS = 788_918_400_000
"""1995-01-01: no shop had a click log before."""
YEAR_MS = 366 * 86_400_000
LONGEST_QUOTED = 20
"""Lines that one quoted field may span; more is a quotation mark that was never closed."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A catalogue entry and the line where it stands."""

    entry: Entry
    line: int


def _absurd(time_ms: int) -> str:
    seconds = time_ms // 1000
    try:
        date = f" ({datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%d})"
    except (ValueError, OverflowError, OSError):
        date = ""
    return f"time {seconds}{date} is {'before 1995' if time_ms < EARLIEST_MS else 'in the future'}"


def _decode(line: bytes) -> str:
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise LineError(
            f"not UTF-8 ({error.reason} at byte {error.start}); save the file as UTF-8"
        ) from error
    if "\0" in text:
        raise LineError("holds a NUL character")
    return text


def read_events(path: Path, now_ms: int, bad: Callable[[BadLine], None]) -> Iterator[Event]:
    """The events of `numbered_events`."""
    return (event for _, event in numbered_events(path, now_ms, bad))


def numbered_events(
    path: Path, now_ms: int, bad: Callable[[BadLine], None]
) -> Iterator[tuple[int, Event]]:
    """Yield the events of a file, each with its line; lines that cannot be used go to `bad`.

    Args:
        path: any of the known formats, plain or gzipped.
        now_ms: today, in milliseconds; an event more than a year after it is absurd.
        bad: called with each bad line; may raise to stop.

    Raises:
        ReplayError: if the file is missing, of an unknown format, or truncated.
    """
    log = recognise_events(path)
    latest = now_ms + YEAR_MS
    lines = read_lines(path)
    for _ in range(log.header):
        next(lines, None)
    for number, line in _records(lines, path, log.separator, bad):
        try:
            event = log.parse(_decode(line))
            if not EARLIEST_MS <= event.time_ms <= latest:
                raise LineError(_absurd(event.time_ms))
        except LineError as error:
            bad(BadLine(path, number, str(error)))
        else:
            yield number, event


def _records(
    lines: Iterator[tuple[int, bytes]],
    path: Path,
    separator: str,
    bad: Callable[[BadLine], None],
) -> Iterator[tuple[int, bytes]]:
    """Join the lines that a quoted field of a table spans."""
    if not separator:
        yield from lines
        return
    waiting = list[tuple[int, bytes]]()
    while True:
        number, record = waiting.pop(0) if waiting else next(lines, (0, b""))
        if not number:
            return
        if b'"' not in record:
            yield number, record
            continue
        joined = list[tuple[int, bytes]]()
        while is_open(record, separator):
            following = waiting.pop(0) if waiting else next(lines, None)
            if following is None or len(joined) == LONGEST_QUOTED:
                bad(BadLine(path, number, "a quotation mark is not closed"))
                waiting = joined + ([following] if following else []) + waiting
                break
            joined.append(following)
            record += b"\n" + following[1]
        else:
            yield number, record


def read_items(path: Path, bad: Callable[[BadLine], None]) -> tuple[Iterator[Listed], bool]:
    """The entries of a catalogue, and whether an item may be repeated in this format.

    Raises:
        ReplayError: if the file is missing, of an unknown format, or (while iterating) truncated.
    """
    catalogue = recognise_items(path)

    def entries() -> Iterator[Listed]:
        lines = read_lines(path)
        for _ in range(catalogue.header):
            next(lines, None)
        for number, line in _records(lines, path, catalogue.separator, bad):
            try:
                yield Listed(catalogue.parse(_decode(line)), number)
            except LineError as error:
                bad(BadLine(path, number, str(error)))

    return entries(), catalogue.repeats


def refusal(line: str) -> str:
    """What a strict replay says of a bad line."""
    return f"{line}; correct the line, or leave out --strict to go on without it"


class BadLines:
    """Counts the bad lines of one staging, keeps the first few, and writes all to a file.

    Args:
        strict: raise at the first.
        write: called with each, to keep it.
    """

    KEPT = 10

    def __init__(self, strict: bool, write: Callable[[BadLine], None]) -> None:
        self.strict = strict
        self.count = 0
        self.first: list[BadLine] = []
        self._write = write

    def __call__(self, line: BadLine) -> None:
        """Take note of a line.

        Raises:
            ReplayError: if `strict`.
        """
        if self.strict:
            raise ReplayError(refusal(str(line)))
        self.count += 1
        if len(self.first) < self.KEPT:
            self.first.append(line)
        self._write(line)
