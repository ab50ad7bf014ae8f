"""Reading a staged log: a log and its catalogue in the order in which they are replayed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from streaming.items import Item

BATCH = 8_192
EVENTS = "events.parquet"
ITEMS = "items.parquet"


class EventBatch(NamedTuple):
    """Consecutive events; `position` is the log position of the first, counted from 0."""

    position: int
    event_ids: list[str]
    user_ids: list[int]
    item_ids: list[int]
    times_ms: list[int]
    event_types: list[str]


@dataclass(frozen=True)
class StagedLog:
    """A log and its catalogue, ready to be replayed.

    Attributes:
        directory: holds the files.
        events: number of events.
        items: number of items.
        bad_lines: lines that were left out, of both files.
        first_bad_lines: the first few, in words.
        first_time_ms: time of the first event.
        last_time_ms: time of the last event.
        notes: which columns of the files are used as what, and which are not.
    """

    directory: Path
    events: int
    items: int
    bad_lines: int
    first_bad_lines: tuple[str, ...]
    first_time_ms: int
    last_time_ms: int
    notes: tuple[str, ...] = ()

    def read_events(self, start: int = 0) -> Iterator[EventBatch]:
        """Batches of events from a position on."""
        for position, batch in _batches(self.directory / EVENTS, start):
            columns = [column.to_pylist() for column in batch.columns]
            yield EventBatch(position, *columns)

    def read_items(self, start: int = 0) -> Iterator[tuple[int, Item]]:
        """(position, item) from a position on."""
        for position, batch in _batches(self.directory / ITEMS, start):
            rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
            for offset, row in enumerate(rows):
                yield position + offset, Item(*row)


def _batches(path: Path, start: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    with pq.ParquetFile(path) as file:
        position = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if position + rows <= start:
                position += rows
                continue
            for batch in file.iter_batches(BATCH, row_groups=[group]):
                skipped = min(max(start - position, 0), batch.num_rows)
                position += skipped
                if skipped < batch.num_rows:
                    yield position, batch.slice(skipped)
                position += batch.num_rows - skipped


def count_rows(path: Path) -> int:
    """Number of rows of a Parquet file."""
    with pq.ParquetFile(path) as file:
        return int(file.metadata.num_rows)


def time_range(events: Path) -> tuple[int, int]:
    """Times of the first and the last event (ms)."""
    with pq.ParquetFile(events) as file:
        first, last = (
            file.read_row_group(group, ["event_time"])["event_time"]
            for group in (0, file.num_row_groups - 1)
        )
        return first[0].as_py(), last[-1].as_py()
