"""`items.parquet`: what a snapshot knows of every item, for people, other tools and display.

Columns: item_id int64, codes list<int16> (first level first), vector list<float32> (as in the
lists), first_seen int64 (ms), events int64, title, category, external_id. Rows ascend by item_id.
An appended file has the same columns. Shapes: N items, Q levels, D dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from indexer.errors import SnapshotError
from indexer.lists.cells import MAX_DIMENSION, MAX_ITEMS
from streaming.events import Item

SCHEMA = pa.schema(
    [
        ("item_id", pa.int64()),
        ("codes", pa.list_(pa.int16())),
        ("vector", pa.list_(pa.float32())),
        ("first_seen", pa.int64()),
        ("events", pa.int64()),
        ("title", pa.string()),
        ("category", pa.string()),
        ("external_id", pa.string()),
    ]
)
ROW_BYTES = 64 * 1024
"""An item takes less than this in memory; a file that declares more is not read."""


@dataclass(frozen=True)
class ItemTable:
    """Items ascending by id; the vectors stay in the lists.

    Attributes:
        item_ids_N: int64.
        codes_NQ: int16.
        rows: the other columns as an Arrow table in the same order.
    """

    item_ids_N: NDArray[np.int64]
    codes_NQ: NDArray[np.int16]
    rows: pa.Table

    def __len__(self) -> int:
        return len(self.item_ids_N)

    def describe(self, item_ids: Sequence[int]) -> list[dict[str, Any]]:
        """For each item: item_id, codes, first_seen, events, title, category, external_id.

        An unknown item (also -1, the padding of an answer) has its id alone.
        """
        found = []
        for item_id in item_ids:
            at = int(np.searchsorted(self.item_ids_N, item_id))
            if at == len(self) or self.item_ids_N[at] != item_id:
                found.append({"item_id": int(item_id)})
                continue
            row = self.rows.slice(at, 1).to_pylist()[0]
            found.append({"item_id": int(item_id), "codes": self.codes_NQ[at].tolist(), **row})
        return found

    def merged(self, other: ItemTable) -> ItemTable:
        """Both tables; where an item is in both, the row of `other`."""
        stay = ~np.isin(self.item_ids_N, other.item_ids_N)
        ids = np.concatenate([self.item_ids_N[stay], other.item_ids_N])
        order = np.argsort(ids, kind="stable")
        rows = pa.concat_tables([self.rows.filter(pa.array(stay)), other.rows])
        return ItemTable(
            ids[order],
            np.concatenate([self.codes_NQ[stay], other.codes_NQ])[order],
            rows.take(pa.array(order)),
        )

    def without(self, item_ids: NDArray[np.int64]) -> ItemTable:
        """The table without these items."""
        stay = ~np.isin(self.item_ids_N, item_ids)
        return ItemTable(
            self.item_ids_N[stay], self.codes_NQ[stay], self.rows.filter(pa.array(stay))
        )


def write_items(
    path: Path,
    items: Sequence[Item],
    codes_NQ: NDArray[np.int64],
    vectors_ND: NDArray[np.float32],
    first_seen_N: NDArray[np.int64],
    events_N: NDArray[np.int64],
) -> None:
    """Write a Parquet file with zstd; `items` ascend by id."""
    table = pa.table(
        [
            pa.array([i.item_id for i in items], pa.int64()),
            _lists(codes_NQ.astype(np.int16)),
            _lists(vectors_ND.astype(np.float32)),
            pa.array(first_seen_N, pa.int64()),
            pa.array(events_N, pa.int64()),
            pa.array([i.title for i in items], pa.string()),
            pa.array([i.category for i in items], pa.string()),
            pa.array([i.external_id for i in items], pa.string()),
        ],
        schema=SCHEMA,
    )
    pq.write_table(table, path, compression="zstd")


def _lists(rows: NDArray[Any]) -> pa.ListArray:
    offsets = np.arange(len(rows) + 1, dtype=np.int32) * rows.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(rows.ravel()))


def read_items(path: Path, levels: int, first_level_codes: int) -> ItemTable:
    """Read what `write_items` wrote, without the vectors, after the digest was verified.

    Raises:
        SnapshotError: for another schema, an absurd size, ids that do not ascend, or codes that
            the model does not have.
    """
    table = _read(path, [name for name in SCHEMA.names if name != "vector"])
    ids = table["item_id"].to_numpy()
    if len(ids) > 1 and not (ids[1:] > ids[:-1]).all():
        raise SnapshotError(f"{path}: item ids do not ascend, or one is there twice")
    codes = _matrix(path, table["codes"], levels)
    if len(codes) and not 0 <= codes[:, 0].min() <= codes[:, 0].max() < first_level_codes:
        raise SnapshotError(f"{path}: a first-level code is outside 0..{first_level_codes - 1}")
    return ItemTable(ids, codes, table.drop_columns(["item_id", "codes"]))


def read_vectors(path: Path, dimension: int) -> NDArray[np.float32]:
    """The vectors (N, D) of an items file.

    Raises:
        SnapshotError: for another dimension or a vector that is not finite.
    """
    vectors = _matrix(path, _read(path, ["vector"])["vector"], dimension)
    if not np.isfinite(vectors).all():
        raise SnapshotError(f"{path}: a vector is not finite")
    return vectors


def _read(path: Path, columns: list[str]) -> pa.Table:
    try:
        with pq.ParquetFile(path) as file:
            if not file.schema_arrow.equals(SCHEMA):
                raise SnapshotError(f"{path}: has other columns than an items file")
            declared = file.metadata
            groups = range(declared.num_row_groups)
            size = sum(declared.row_group(g).total_byte_size for g in groups)
            if declared.num_rows > MAX_ITEMS or size > (declared.num_rows + 16) * ROW_BYTES:
                raise SnapshotError(f"{path}: declares {declared.num_rows} rows, {size} bytes")
            table = file.read(columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise SnapshotError(f"{path}: {error}") from error
    if any(column.null_count for column in table.columns):
        raise SnapshotError(f"{path}: a value is missing")
    return table


def _matrix(path: Path, column: pa.ChunkedArray, width: int) -> NDArray[Any]:
    """A column of lists of one length as a matrix."""
    if not 1 <= width <= MAX_DIMENSION:
        raise SnapshotError(f"{path}: absurd width {width}")
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # a column without chunks
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], column.type)
    lengths = np.diff(array.offsets.to_numpy()) if len(array) else np.empty(0, np.int64)
    if (lengths != width).any():
        raise SnapshotError(f"{path}: a list of {lengths[lengths != width][0]}, not of {width}")
    values = array.flatten()
    if values.null_count:
        raise SnapshotError(f"{path}: a value is missing")
    return values.to_numpy(zero_copy_only=False).reshape(len(array), width)
