"""What is shown of items: `catalogue-<version>.arrow`, a base and deltas, mapped into memory.

Columns: item_id int64, listed bool (false: withdrawn, and in no list), first_seen int64 (ms),
title, category, external_id. Rows ascend by item_id. A row of a later file takes the place of an
earlier one. Items that only the model knows have no row; codes and vectors are the model's and the
lists'.

The files are Arrow IPC without compression: any Arrow reader opens them, and what is asked for is
read from the page cache, shared between processes.

Shapes: n rows of a file, N items of the table.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from indexer.errors import SnapshotError
from indexer.lists.cells import MAX_ITEMS
from streaming.items import Item

Ids = NDArray[np.int64]

COLUMNS = [
    ("item_id", pa.int64()),
    ("listed", pa.bool_()),
    ("first_seen", pa.int64()),
    ("title", pa.large_string()),
    ("category", pa.large_string()),
    ("external_id", pa.large_string()),
]
SCHEMA = pa.schema(COLUMNS)
SHOWN = ("title", "category", "external_id")
NOTHING = dict.fromkeys(SHOWN, "")


@dataclass(frozen=True)
class Rows:
    """The rows of one file, ascending by id."""

    ids_n: Ids
    listed_n: NDArray[np.bool_]
    batch: pa.RecordBatch

    @classmethod
    def of(cls, batch: pa.RecordBatch) -> Rows:
        """From a record batch that has the columns, and perhaps more."""
        listed = batch.column("listed").to_numpy(zero_copy_only=False)
        return cls(batch.column("item_id").to_numpy(), listed, batch.select(SCHEMA.names))

    @classmethod
    def made(
        cls, items: Sequence[Item], first_seen_n: NDArray[np.int64], withdrawn: Sequence[int] = ()
    ) -> Rows:
        """Rows of items as they are listed, and of some that were withdrawn, none of both.

        Args:
            items: in any order.
            first_seen_n: when each was first listed, in ms.
            withdrawn: ids.
        """
        return cls.of(batch_of(items, first_seen_n, withdrawn))

    def find(self, item_ids: Ids) -> Ids:
        """The row of each item, -1 where it has none."""
        if not len(self.ids_n):
            return np.full(len(item_ids), -1)
        at = np.searchsorted(self.ids_n, item_ids).clip(max=len(self.ids_n) - 1)
        return np.where(self.ids_n[at] == item_ids, at, -1)

    def write(self, path: Path) -> None:
        """Write an Arrow IPC file of one batch.

        Raises:
            OSError: if it cannot be written.
        """
        write_batch(path, self.batch)

    @classmethod
    def read(cls, path: Path) -> Rows:
        """Map what `write` wrote, after its digest was verified; further columns are passed over.

        Raises:
            SnapshotError: for another schema, an absurd size, a value that is missing, or ids that
                do not ascend.
        """
        return cls.of(read_batch(path, SCHEMA))


@dataclass(frozen=True)
class ItemTable:
    """The newest row of every item over some files, the newest file last; immutable."""

    parts: tuple[Rows, ...] = ()
    _count: int = 0

    @classmethod
    def of(cls, parts: Sequence[Rows]) -> ItemTable:
        """From the rows of some files, oldest first."""
        return functools.reduce(ItemTable.with_rows, parts, cls())

    def __len__(self) -> int:
        return self._count

    def with_rows(self, rows: Rows) -> ItemTable:
        """The table with a newer file."""
        before = self.find(rows.ids_n)[0] >= 0
        more = int(rows.listed_n.sum()) - int(before.sum())
        return ItemTable((*self.parts, rows), self._count + more)

    def without(self, item_ids: Ids) -> ItemTable:
        """The table without these items."""
        there = np.unique(item_ids)
        there = there[self.find(there)[0] >= 0]
        if not len(there):
            return self
        return self.with_rows(Rows.made([], np.empty(0, np.int64), there.tolist()))

    def find(self, item_ids: Ids) -> tuple[Ids, Ids]:
        """File and row of each item that is listed; -1, -1 for the others."""
        item_ids = np.asarray(item_ids, np.int64)
        parts, rows = np.full(len(item_ids), -1), np.full(len(item_ids), -1)
        open_n = np.arange(len(item_ids))  # not found in a newer file
        for number in range(len(self.parts) - 1, -1, -1):
            if not len(open_n):
                break
            part = self.parts[number]
            at = part.find(item_ids[open_n])
            here = at >= 0
            found, at = open_n[here], at[here]
            listed = part.listed_n[at]
            parts[found[listed]], rows[found[listed]] = number, at[listed]
            open_n = open_n[~here]
        return parts, rows

    def differing(self, rows: Rows) -> NDArray[np.bool_]:
        """Which rows list an item that is not in the table, or not shown as they say (n)."""
        parts, at = self.find(rows.ids_n)
        differs = rows.listed_n & (parts < 0)
        for number in np.unique(parts[parts >= 0]).tolist():
            mine = np.flatnonzero((parts == number) & rows.listed_n)
            here, there = pa.array(mine), pa.array(at[mine])
            for name in SHOWN:
                said = rows.batch.column(name).take(here)
                known = self.parts[number].batch.column(name).take(there)
                differs[mine] |= pc.not_equal(said, known).to_numpy(zero_copy_only=False)
        return differs

    def shown(self, item_ids: Sequence[int]) -> list[dict[str, str]]:
        """title, category and external_id of each item; empty where it is not listed."""
        return [{name: row[name] for name in SHOWN} for row in self.describe(item_ids)]

    def describe(self, item_ids: Sequence[int]) -> list[dict[str, Any]]:
        """first_seen, title, category and external_id of each item; 0 and empty where unknown."""
        found: list[dict[str, Any]] = [{"first_seen": 0, **NOTHING} for _ in item_ids]
        parts, rows = self.find(np.asarray(item_ids, np.int64))
        for number in np.unique(parts[parts >= 0]).tolist():
            mine = np.flatnonzero(parts == number)
            columns = self.parts[number].batch.select(["first_seen", *SHOWN])
            told = columns.take(pa.array(rows[mine])).to_pylist()
            for place, row in zip(mine.tolist(), told, strict=True):
                found[place] = row
        return found

    def first_seen(self, item_ids: Ids) -> NDArray[np.int64]:
        """When each item was first listed, in ms; 0 where it is not listed."""
        parts, rows = self.find(item_ids)
        first = np.zeros(len(item_ids), np.int64)
        for number in np.unique(parts[parts >= 0]).tolist():
            mine = parts == number
            first[mine] = self.parts[number].batch.column("first_seen").to_numpy()[rows[mine]]
        return first

    def listed_until(self, time_ms: int) -> Ids:
        """Ids, ascending, of the items that were first listed no later; a pass over that column."""
        found = [np.empty(0, np.int64)]
        for part in self.parts:
            first_n = part.batch.column("first_seen").to_numpy()
            found.append(part.ids_n[part.listed_n & (first_n <= time_ms)])
        ids = np.unique(np.concatenate(found))  # a later file may say otherwise
        return ids[(self.find(ids)[0] >= 0) & (self.first_seen(ids) <= time_ms)]

    def packed(self) -> Rows:
        """All listed items in one: a base."""
        kept, later = [], np.empty(0, np.int64)
        for part in reversed(self.parts):
            stay = part.listed_n & ~np.isin(part.ids_n, later)
            kept.append(part.batch.filter(pa.array(stay)))
            later = np.union1d(later, part.ids_n)
        if not kept:
            return Rows.made([], np.empty(0, np.int64))
        table = pa.Table.from_batches(kept).combine_chunks()
        order = np.argsort(table["item_id"].to_numpy(), kind="stable")
        batches = table.take(pa.array(order)).combine_chunks().to_batches()
        return Rows.of(batches[0]) if batches else Rows.made([], np.empty(0, np.int64))

    @functools.cached_property
    def item_ids_N(self) -> NDArray[np.int64]:
        """Ids of all listed items, ascending: a pass over the catalogue."""
        return self.packed().ids_n


def batch_of(
    items: Sequence[Item], first_seen_n: NDArray[np.int64], withdrawn: Sequence[int] = ()
) -> pa.RecordBatch:
    """The record batch of items as listed, and of some that were withdrawn, ascending by id."""
    n, gone = len(items), list(withdrawn)
    nothing = [""] * len(gone)
    ids = np.array([*(one.item_id for one in items), *gone], np.int64)
    columns = [
        pa.array(ids, pa.int64()),
        pa.array(np.arange(len(ids)) < n),
        pa.array(np.concatenate([first_seen_n, np.zeros(len(gone), np.int64)]), pa.int64()),
        pa.array([*(one.title for one in items), *nothing], pa.large_string()),
        pa.array([*(one.category for one in items), *nothing], pa.large_string()),
        pa.array([*(one.external_id for one in items), *nothing], pa.large_string()),
    ]
    batch = pa.RecordBatch.from_arrays(columns, schema=SCHEMA)
    if (ids[1:] > ids[:-1]).all():
        return batch
    return batch.take(pa.array(np.argsort(ids, kind="stable")))


def write_batch(path: Path, batch: pa.RecordBatch) -> None:
    """Write an Arrow IPC file of one batch."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)


def read_batch(path: Path, schema: pa.Schema) -> pa.RecordBatch:
    """Map a file of `write_batch` whose rows ascend by `item_id`.

    Raises:
        SnapshotError: if it is none, has another schema, or is inconsistent.
    """
    try:
        file = pa.ipc.open_file(pa.memory_map(str(path)))
        if pa.schema(list(file.schema)[: len(schema)]) != schema:
            raise SnapshotError(f"{path}: has other columns than an items file of this version")
        if file.num_record_batches != 1:
            raise SnapshotError(f"{path}: holds {file.num_record_batches} batches, not one")
        batch = file.get_batch(0)
        batch.validate(full=True)  # offsets and text, before anything is read by them
    except (OSError, pa.ArrowException) as error:
        raise SnapshotError(f"{path}: {error}") from error
    if batch.num_rows > MAX_ITEMS:
        raise SnapshotError(f"{path}: declares {batch.num_rows} rows")
    if any(column.null_count for column in batch.columns):
        raise SnapshotError(f"{path}: a value is missing")
    ids = batch.column("item_id").to_numpy()
    if not (ids[1:] > ids[:-1]).all():
        raise SnapshotError(f"{path}: item ids do not ascend, or one is there twice")
    return batch
