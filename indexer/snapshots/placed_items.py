"""Items that the indexer has placed: those that the model has not learnt, or not as listed now.

A version holds one such file, `placed.arrow`, and so does each file appended to it. The columns are
those of `item_table`, and behind them codes and vector. A handover that has learnt an item is right
about it from then on, and the next version does not place it.

Shapes: n items, Q levels, D dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from indexer.errors import SnapshotError
from indexer.snapshots.item_table import SCHEMA, ItemTable, Rows, batch_of, read_batch, write_batch
from streaming.items import Item


@dataclass(frozen=True)
class PlacedItems:
    """Items ascending by id, with where they lie.

    Attributes:
        rows: as they are listed.
        codes_nQ: int16.
        vectors_nD: float32.
    """

    rows: Rows
    codes_nQ: NDArray[np.int16]
    vectors_nD: NDArray[np.float32]

    @property
    def ids_n(self) -> NDArray[np.int64]:
        """Their ids."""
        return self.rows.ids_n

    def __len__(self) -> int:
        return len(self.rows.ids_n)

    @classmethod
    def made(
        cls,
        items: Sequence[Item],
        first_seen_n: NDArray[np.int64],
        codes_nQ: NDArray[np.integer],
        vectors_nD: NDArray[np.float32],
    ) -> PlacedItems:
        """From items in any order and what belongs to each."""
        order = np.argsort(np.array([one.item_id for one in items], np.int64), kind="stable")
        rows = Rows.of(batch_of(items, first_seen_n))
        return cls(rows, codes_nQ[order].astype(np.int16), vectors_nD[order].astype(np.float32))

    @classmethod
    def merged(cls, parts: Sequence[PlacedItems]) -> PlacedItems:
        """The last word about every item of some, at least one, the newest last."""
        ids = np.concatenate([one.ids_n for one in parts])
        _, behind = np.unique(ids[::-1], return_index=True)
        last = len(ids) - 1 - behind
        rows = ItemTable.of([one.rows for one in parts]).packed()  # these, in this order
        codes = np.concatenate([one.codes_nQ for one in parts])[last]
        return cls(rows, codes, np.concatenate([one.vectors_nD for one in parts])[last])

    def write(self, path: Path) -> None:
        """Write an Arrow IPC file.

        Raises:
            OSError: if it cannot be written.
        """
        _, levels = self.codes_nQ.shape
        _, dimension = self.vectors_nD.shape
        flat = pa.array(self.codes_nQ.ravel()), pa.array(self.vectors_nD.ravel())
        columns = [
            *self.rows.batch.columns,
            pa.FixedSizeListArray.from_arrays(flat[0], levels),
            pa.FixedSizeListArray.from_arrays(flat[1], dimension),
        ]
        schema = _schema(levels, dimension)
        write_batch(path, pa.RecordBatch.from_arrays(columns, schema=schema))

    @classmethod
    def read(cls, path: Path, levels: int, dimension: int, first_level_codes: int) -> PlacedItems:
        """What `write` wrote, after its digest was verified.

        Raises:
            SnapshotError: as `read_batch`, and for a withdrawn item, a code that the model does not
                have, or a vector that is not finite.
        """
        batch = read_batch(path, _schema(levels, dimension))
        rows = Rows.of(batch)
        matrices = []
        for name, width in (("codes", levels), ("vector", dimension)):
            values = batch.column(name).flatten()
            if values.null_count or len(values) != width * len(rows.ids_n):
                raise SnapshotError(f"{path}: a value is missing in {name}")
            matrices.append(values.to_numpy(zero_copy_only=False).reshape(-1, width))
        codes, vectors = matrices
        if not rows.listed_n.all():
            raise SnapshotError(f"{path}: holds item {rows.ids_n[~rows.listed_n][0]}, withdrawn")
        if len(codes) and not 0 <= codes.min() <= codes[:, 0].max() < first_level_codes:
            raise SnapshotError(f"{path}: a first-level code is outside 0..{first_level_codes - 1}")
        if not np.isfinite(vectors).all():
            raise SnapshotError(f"{path}: a vector is not finite")
        return cls(rows, codes, vectors)


def _schema(levels: int, dimension: int) -> pa.Schema:
    codes = pa.field("codes", pa.list_(pa.int16(), levels))
    vector = pa.field("vector", pa.list_(pa.float32(), dimension))
    return pa.schema([*SCHEMA, codes, vector])
