"""The properties of all items in columns: a base and what changed since, each file as it lies.

Columns of a file (`record batch`), rows ascending by `item_id`; a row of a later one takes the
place of an earlier one as a whole:

    item_id          int64
    state            int8: 0 listed, 1 hidden, 2 withdrawn
    available_from   int64 ms, null: always
    available_until  int64 ms, exclusive, null: for ever
    category         large_string, empty where unknown
    a.<name>         an attribute: large_string, float64, bool, large_list<large_string> or
                     timestamp[ms]; null where an item has it not

What is worked out of a file is kept beside it, so a change costs what it changes.

Shapes: n rows of a file, R rows of all, m items asked for, r items with a state or a validity.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from indexer.catalogue.column import Column, kind_of
from indexer.errors import IndexerError
from streaming.item_attributes import Kind
from streaming.items import STATES

Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]

LISTED, HIDDEN, WITHDRAWN = map(STATES.index, ("listed", "hidden", "withdrawn"))
"""States of an item."""
ALWAYS = [
    ("item_id", pa.int64()),
    ("state", pa.int8()),
    ("available_from", pa.int64()),
    ("available_until", pa.int64()),
    ("category", pa.large_string()),
]
"""The columns that every file has."""
ATTRIBUTE = "a."
CATEGORY = "category"
NONE = np.empty(0, np.int64)
BEGINNING, END = np.iinfo(np.int64).min, np.iinfo(np.int64).max


class Restricted(NamedTuple):
    """Items that are not answered at every time, ascending by id."""

    ids_r: Ids
    state_r: NDArray[np.int8]
    from_r: Ids
    until_r: Ids

    def taken(self, which: NDArray[np.intp] | Mask) -> Restricted:
        """Some of them."""
        return Restricted(
            self.ids_r[which], self.state_r[which], self.from_r[which], self.until_r[which]
        )


class Part:
    """The rows of one file, and what was worked out of them; never changed otherwise.

    Args:
        batch: with the columns of the module.

    Raises:
        IndexerError: naming the column that is missing or of another type, or the item that is out
            of order.
    """

    def __init__(self, batch: pa.RecordBatch) -> None:
        self.batch = batch
        self.kinds: dict[str, Kind] = {}
        for name, stored in ALWAYS:
            if batch.schema.get_field_index(name) < 0 or batch.schema.field(name).type != stored:
                raise IndexerError(f"properties of items: column {name!r} is not {stored}")
        for one in batch.schema:
            if one.name.startswith(ATTRIBUTE):
                kind = kind_of(one.type)
                if kind is None:
                    raise IndexerError(f"properties of items: {one.name!r} is of type {one.type}")
                self.kinds[one.name.removeprefix(ATTRIBUTE)] = kind
        self.ids_n: Ids = batch.column("item_id").to_numpy()
        if (wrong := self.ids_n[1:] <= self.ids_n[:-1]).any():
            raise IndexerError(
                f"properties of items: item {self.ids_n[1:][wrong][0]} does not ascend by id"
            )
        self._columns: dict[str, Column] = {}

    def __len__(self) -> int:
        return len(self.ids_n)

    def find(self, item_ids: Ids) -> Ids:
        """The row of each item (m), -1 where it has none."""
        if not len(self.ids_n):
            return np.full(len(item_ids), -1)
        at = np.searchsorted(self.ids_n, item_ids).clip(max=len(self.ids_n) - 1)
        return np.where(self.ids_n[at] == item_ids, at, -1)

    def column(self, key: str, kind: Kind) -> Column | None:
        """The category or an attribute; None where no row has one of this kind."""
        if key == CATEGORY:
            stored = self.batch.column(CATEGORY)
        elif self.kinds.get(key) == kind:
            stored = self.batch.column(ATTRIBUTE + key)
        else:
            return None
        if key not in self._columns:  # two threads may both do it, with the same outcome
            if key == CATEGORY:
                stored = pc.if_else(pc.equal(stored, ""), pa.scalar(None, stored.type), stored)
            self._columns[key] = Column.of(stored, kind)
        return self._columns[key]

    def valued(self, name: str, rows: Ids | None = None) -> int:
        """How many rows, or how many of some, have an attribute."""
        stored = self.batch.column(ATTRIBUTE + name)
        if rows is not None:
            stored = stored.take(pa.array(rows))
        return len(stored) - stored.null_count

    @cached_property
    def restricted_rows(self) -> Ids:
        """The rows of items that are not answered at every time, ascending."""
        rows = self.batch.column("state").to_numpy(zero_copy_only=False) != LISTED
        for end in ("from", "until"):
            ends = self.batch.column(f"available_{end}")
            if ends.null_count < len(ends):
                rows |= ends.is_valid().to_numpy(zero_copy_only=False)
        return np.flatnonzero(rows)

    @cached_property
    def restricted(self) -> Restricted:
        """The items of these rows."""
        at = self.restricted_rows
        from_r, until_r = (
            pc.fill_null(
                self.batch.column(f"available_{end}").take(pa.array(at)), default
            ).to_numpy()
            for end, default in (("from", BEGINNING), ("until", END))
        )
        state_n = self.batch.column("state").to_numpy(zero_copy_only=False)
        return Restricted(self.ids_n[at], state_n[at], from_r, until_r)

    @cached_property
    def turns(self) -> Ids:
        """When an item of these rows becomes available, or ceases to be, ascending."""
        ends = np.unique(np.concatenate([self.restricted.from_r, self.restricted.until_r]))
        return ends[(ends > BEGINNING) & (ends < END)]


@dataclass(frozen=True, eq=False)
class ItemColumns:
    """The newest row of every item over some files, the newest file last; immutable.

    Attributes:
        parts: the files, oldest first.
        replaced: of each the rows, ascending, of items that a later one has, too.
        types: the kind of every attribute that some item has.
    """

    parts: tuple[Part, ...] = ()
    replaced: tuple[Ids, ...] = ()
    types: Mapping[str, Kind] = field(default_factory=dict)
    _counts: Mapping[str, int] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, batches: Iterable[pa.RecordBatch]) -> ItemColumns:
        """From the contents of some files, oldest first.

        Raises:
            IndexerError: as `with_part`.
        """
        return functools.reduce(ItemColumns.with_part, batches, cls())

    def with_part(self, batch: pa.RecordBatch) -> ItemColumns:
        """The same with a newer file; costs what that one holds.

        Raises:
            IndexerError: for other columns than those of the module, ids that do not ascend, and
                for an attribute of another kind than items have it that are not in the file.
        """
        part = Part(batch)
        replaced, counts = list(self.replaced), dict(self._counts)
        for number, earlier in enumerate(self.parts):
            rows = earlier.find(part.ids_n)
            rows = np.setdiff1d(rows[rows >= 0], replaced[number], assume_unique=True)
            if not len(rows):
                continue
            for name in earlier.kinds:
                if earlier.kinds[name] == self.types.get(name):
                    counts[name] -= earlier.valued(name, rows)
            replaced[number] = np.union1d(replaced[number], rows)
        types = {name: kind for name, kind in self.types.items() if counts[name]}
        for name, kind in part.kinds.items():
            if not (more := part.valued(name)):
                continue
            if types.setdefault(name, kind) != kind:
                raise IndexerError(
                    f"properties of items: attribute {name!r} is {kind} and {types[name]}"
                )
            counts[name] = counts.get(name, 0) + more
        kept = {name: counts[name] for name in types}
        return ItemColumns((*self.parts, part), (*replaced, NONE), MappingProxyType(types), kept)

    def __len__(self) -> int:
        return sum(map(len, self.parts)) - sum(map(len, self.replaced))

    def rows_of(self, item_ids: Ids) -> Ids:
        """The row of each item, counted through all files; -1 for unknown ones.

        Args:
            item_ids: int64 (m,).
        """
        rows, start = np.full(len(item_ids), -1), 0
        for part in self.parts:
            at = part.find(item_ids)
            rows = np.where(at >= 0, start + at, rows)
            start += len(part)
        return rows

    def beside(self, other: ItemColumns) -> tuple[int, list[Part]]:
        """How many rows come first in both, of the same files, and the files that come then."""
        count, same = 0, 0
        for one, theirs in zip(self.parts, other.parts, strict=False):
            if one is not theirs:
                break
            count, same = count + 1, same + len(one)
        return same, list(self.parts[count:])

    @cached_property
    def restricted(self) -> Restricted:
        """The items that are not answered at every time."""
        found = []
        for part, rows in zip(self.parts, self.replaced, strict=True):
            newest_n = np.ones(len(part), np.bool_)
            newest_n[rows] = False
            found.append(part.restricted.taken(newest_n[part.restricted_rows]))
        if not found:
            return Restricted(NONE, NONE.astype(np.int8), NONE, NONE)
        joined = Restricted(*(np.concatenate(x) for x in zip(*found, strict=True)))
        return joined.taken(np.argsort(joined.ids_r, kind="stable"))

    @cached_property
    def unlisted(self) -> Ids:
        """Ids of the items that are hidden or withdrawn, ascending."""
        return self.restricted.ids_r[self.restricted.state_r != LISTED]

    @cached_property
    def _scheduled(self) -> Restricted:
        return self.restricted.taken(self.restricted.state_r == LISTED)

    def period(self, now_ms: int) -> int:
        """A number of times at which the same items are available as at this one.

        The turns of rows that were replaced count, too, so that a change costs what it changes.
        """
        return sum(int(np.searchsorted(one.turns, now_ms, side="right")) for one in self.parts)

    def unavailable(self, now_ms: int) -> Ids:
        """Ids of the listed items that are not available at a time, ascending."""
        ids, _, from_r, until_r = self._scheduled
        return ids[(now_ms < from_r) | (now_ms >= until_r)]

    def unanswerable(self, now_ms: int) -> Ids:
        """Ids of the items that must not be answered at a time, ascending."""
        return np.union1d(self.unlisted, self.unavailable(now_ms))
