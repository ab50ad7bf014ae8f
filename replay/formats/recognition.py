"""Which format a file has, by its first lines; its name does not matter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

from replay.errors import ReplayError, shown
from replay.formats import amazon_object, recbole, table
from replay.formats.record import EntryFormat, EventFormat
from replay.text_file import read_lines

SAMPLE_LINES = 1000
EVENT_FORMATS = (
    amazon_object.events,
    recbole.events,
    table.events_with_header,
    table.events_without_header,
)
ENTRY_FORMATS = (amazon_object.items, recbole.items, table.items_with_header)
F = TypeVar("F", EventFormat, EntryFormat)


def _sample(path: Path) -> list[str]:
    lines = [line.decode("utf-8", "replace") for _, line in islice(read_lines(path), SAMPLE_LINES)]
    if not lines:
        raise ReplayError(f"{path} holds only blank lines; was the download or export cut off?")
    if lines[0].lstrip().startswith("["):
        raise ReplayError(
            f"{path} is one JSON array; write one object a line (jq -c '.[]' does that)"
        )
    return lines


def _first(
    path: Path, lines: list[str], formats: Sequence[Callable[[Sequence[str]], F | None]]
) -> F | None:
    for recognise in formats:
        try:
            if found := recognise(lines):
                return found
        except ReplayError as error:
            raise ReplayError(f"{path}: {error}") from error
    return None


def _is(lines: list[str], formats: Sequence[Callable[[Sequence[str]], F | None]]) -> bool:
    try:
        return any(recognise(lines) for recognise in formats)
    except ReplayError:
        return False


def _unknown(path: Path, lines: list[str], what: str) -> ReplayError:
    names = table.unknown_header(lines[0])
    held = f"its columns {names} are none that is known" if names else shown(lines[0])
    return ReplayError(f"{path} line 1: {what} ({held})")


def recognise_events(path: Path) -> EventFormat:
    """Find out how to read a file of events.

    Raises:
        ReplayError: if it cannot be read, holds no events, lacks a column, or leaves it open
            which one is meant.
    """
    lines = _sample(path)
    if found := _first(path, lines, EVENT_FORMATS):
        return found
    if _is(lines, ENTRY_FORMATS):
        raise ReplayError(f"{path} is a catalogue, not a log of events; give it as the items file")
    raise ReplayError(
        f"{_unknown(path, lines, 'not a known log')}; known are a table whose first line names "
        "the columns user_id,item_id,time, Amazon's ratings and reviews of 2014, 2018 and 2023, "
        "Taobao's behaviours, objects one a line, and RecBole's .inter"
    )


def recognise_items(path: Path) -> EntryFormat:
    """Find out how to read a catalogue.

    Raises:
        ReplayError: if it cannot be read, is no catalogue, or leaves it open which column holds
            the items' ids.
    """
    lines = _sample(path)
    if found := _first(path, lines, ENTRY_FORMATS):
        return found
    if _is(lines, EVENT_FORMATS):
        raise ReplayError(
            f"{path}: not a known catalogue: it is a log of events, not a catalogue; give it as "
            "the events file"
        )
    raise ReplayError(
        f"{_unknown(path, lines, 'not a known catalogue')}; known are a table whose first line "
        "names item_id and any of title,category,asin, Amazon's metadata of 2014, 2018 and 2023, "
        "objects one a line, and RecBole's .item"
    )
