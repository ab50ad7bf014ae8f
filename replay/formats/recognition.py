"""Which format a file has, by its first lines; its name does not matter."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from replay.errors import ReplayError
from replay.formats import amazon_object, recbole, table
from replay.formats.record import EntryFormat, EventFormat
from replay.text_file import read_lines

SAMPLE_LINES = 100
EVENT_FORMATS = (
    amazon_object.events,
    recbole.events,
    table.events_with_header,
    table.ratings_without_header,
)
ENTRY_FORMATS = (amazon_object.items, recbole.items, table.items_with_header)


def _sample(path: Path) -> list[str]:
    lines = [line.decode("utf-8", "replace") for _, line in islice(read_lines(path), SAMPLE_LINES)]
    if not lines:
        raise ReplayError(f"{path} holds only blank lines; was the download or export cut off?")
    return lines


def _first_line(lines: list[str]) -> str:
    return repr(lines[0][:100])


def recognise_events(path: Path) -> EventFormat:
    """Find out how to read a file of events.

    Raises:
        ReplayError: if it cannot be read, holds no events, or lacks a column.
    """
    lines = _sample(path)
    for recognise in EVENT_FORMATS:
        try:
            if found := recognise(lines):
                return found
        except ReplayError as error:
            raise ReplayError(f"{path}: {error}") from error
    if any(recognise(lines) for recognise in ENTRY_FORMATS):
        raise ReplayError(f"{path} is a catalogue, not a log of events; give it as the items file")
    raise ReplayError(
        f"{path} line 1: not a known log ({_first_line(lines)}); known are a table with the "
        "columns user_id,item_id,time, Amazon's ratings and reviews of 2014, 2018 and 2023, and "
        "RecBole's .inter"
    )


def recognise_items(path: Path) -> EntryFormat:
    """Find out how to read a catalogue.

    Raises:
        ReplayError: if it cannot be read or is no catalogue.
    """
    lines = _sample(path)
    for recognise in ENTRY_FORMATS:
        if found := recognise(lines):
            return found
    raise ReplayError(
        f"{path} line 1: not a known catalogue ({_first_line(lines)}); known are a table with "
        "item_id and any of title,category,asin, Amazon's metadata of 2014, 2018 and 2023, and "
        "RecBole's .item"
    )
