"""Items as rows of properties, and back.

Beside the columns that a search asks for (`item_columns`) a row holds the rest of what was said of
an item, so that one field of it can be changed later without knowing the others:

    title, external_id   large_string, null: nothing is kept of the item but that it is withdrawn
    listed_at            int64 ms

Shapes: n rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from indexer.catalogue.item_columns import ALWAYS, ATTRIBUTE
from streaming.item_attributes import TIME, Kind, kind_of
from streaming.items import STATES, Item

KEPT = [("title", pa.large_string()), ("external_id", pa.large_string()), ("listed_at", pa.int64())]
STORED: dict[Kind, pa.DataType] = {
    "string": pa.large_string(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "strings": pa.large_list(pa.large_string()),
    "time": pa.timestamp("ms"),
}
"""Column types of attributes."""


def rows(said: Mapping[int, Item | None]) -> pa.RecordBatch:
    """What is said of some items; of one that is withdrawn perhaps nothing.

    An attribute must have one type at all of them.
    """
    ids = sorted(said)
    items = [said[item_id] for item_id in ids]
    there = [one if one is not None else Item(0, state="withdrawn") for one in items]
    texts = [(one.title, one.external_id) if one is not None else (None, None) for one in items]
    columns: dict[str, pa.Array] = {
        "item_id": pa.array(ids, pa.int64()),
        "state": pa.array([STATES.index(one.state) for one in there], pa.int8()),
        "available_from": pa.array([one.available_from for one in there], pa.int64()),
        "available_until": pa.array([one.available_until for one in there], pa.int64()),
        "category": pa.array([one.category for one in there], pa.large_string()),
        "title": pa.array([title for title, _ in texts], pa.large_string()),
        "external_id": pa.array([own for _, own in texts], pa.large_string()),
        "listed_at": pa.array([one.listed_at for one in there], pa.int64()),
    }
    for name, kind in sorted(kinds(there).items()):
        values = [one.attributes.get(name) for one in there]
        if kind == "time":
            values = [cast(Any, value)[TIME] if value else None for value in values]
        elif kind == "number":
            values = [None if value is None else float(cast(float, value)) for value in values]
        columns[ATTRIBUTE + name] = pa.array(values, STORED[kind])
    return pa.RecordBatch.from_pydict(columns)


def kinds(items: Iterable[Item]) -> dict[str, Kind]:
    """The type of every attribute that some items have."""
    return {name: kind_of(value) for one in items for name, value in one.attributes.items()}


def withdrawn(item_ids: Iterable[int]) -> pa.RecordBatch:
    """Rows of items of which nothing is known but that they are withdrawn."""
    return rows(dict.fromkeys(item_ids))


def item(batch: pa.RecordBatch, row: int) -> Item | None:
    """What a row says of its item; None where nothing is kept of it."""
    [found] = batch.slice(row, 1).to_pylist()
    if found["title"] is None:
        return None
    attributes = {}
    for one in batch.schema:
        value = found[one.name]
        if not one.name.startswith(ATTRIBUTE) or value is None:
            continue
        if pa.types.is_timestamp(one.type):
            value = {TIME: batch.column(one.name).cast(pa.int64())[row].as_py()}
        attributes[one.name.removeprefix(ATTRIBUTE)] = value
    return Item(
        found["item_id"],
        found["title"],
        found["category"],
        found["external_id"],
        found["listed_at"],
        STATES[found["state"]],
        found["available_from"],
        found["available_until"],
        attributes,
    )


def merged(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """The newest row of every item, of batches that follow each other, oldest first."""
    if len(batches) == 1:
        return batches[0]
    kept, later = [], np.empty(0, np.int64)
    for batch in reversed(batches):
        ids: NDArray[np.int64] = batch.column("item_id").to_numpy()
        stay = ~np.isin(ids, later, assume_unique=True)
        left = batch if stay.all() else batch.filter(pa.array(stay))
        empty = [n for n in left.schema.names if n.startswith(ATTRIBUTE) and _is_null(left, n)]
        kept.append(pa.Table.from_batches([left]).drop_columns(empty))
        later = np.union1d(later, ids)
    table = pa.concat_tables(kept, promote_options="default").combine_chunks()
    order = np.argsort(table["item_id"].to_numpy(), kind="stable")
    found = table.take(pa.array(order)).combine_chunks().to_batches()
    return found[0] if found else rows({})


def without_forgotten(batch: pa.RecordBatch, known: Set[int]) -> pa.RecordBatch:
    """The rows but for those of withdrawn items that are not known any more."""
    gone = np.flatnonzero(batch.column("state").to_numpy() == STATES.index("withdrawn"))
    ids = batch.column("item_id").to_numpy()[gone]
    gone = gone[[item_id not in known for item_id in ids.tolist()]] if len(gone) else gone
    if not len(gone):
        return batch
    stays = np.ones(batch.num_rows, np.bool_)
    stays[gone] = False
    return batch.filter(pa.array(stays))


def _is_null(batch: pa.RecordBatch, name: str) -> bool:
    column = batch.column(name)
    return bool(column.null_count == len(column))


def is_complete(batch: pa.RecordBatch) -> bool:
    """Whether it has the columns of this module and those of `item_columns`, of their types."""
    expected = [*ALWAYS, *KEPT]
    return all(
        batch.schema.get_field_index(name) >= 0 and batch.schema.field(name).type == stored
        for name, stored in expected
    )
