"""Rows in cells: the items of a list that share their second-level code lie side by side.

A search need not score a whole list: the mean of a cell tells how its items will do on the whole,
so the cells are ranked by their means, and only the best are scored row by row.

Shapes: n rows, D dimension, m cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from indexer.errors import IndexerError, SnapshotError

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]

SHORT = 256
"""Up to so many rows are one cell: cells of a handful of rows would cost as much as the rows."""
MAX_DIMENSION = 4096
MAX_ITEMS = 2**31 - 1
DTYPES = {"item_ids": "I64", "seconds": "I16", "vectors": "F32", "starts": "I64", "means": "F32"}
"""What a file of rows holds."""


@dataclass(frozen=True)
class CellRows:
    """Rows ascending by (second-level code, id); nothing of it can be written to.

    Attributes:
        item_ids: int64 (n,).
        seconds: int16 (n,), second-level codes.
        vectors: float32 (n, D).
        starts: int64 (m + 1,), the first row of each cell, and n.
        means: float32 (m, D), of the vectors of each cell.
    """

    item_ids: Ids
    seconds: NDArray[np.int16]
    vectors: Floats
    starts: Ids
    means: Floats

    def __len__(self) -> int:
        return len(self.item_ids)

    @classmethod
    def of(
        cls,
        item_ids: Ids,
        seconds: NDArray[np.integer],
        vectors: Floats,
        *,
        always: bool = False,
    ) -> CellRows:
        """Rows in any order, with distinct ids and finite vectors.

        `always`: each second-level code is a cell, however few rows there are.
        """
        order = np.lexsort((item_ids, seconds))
        ids, codes = item_ids[order], seconds[order].astype(np.int16)
        rows = vectors[order]
        count = len(ids)
        bounds = (
            [0, *(np.flatnonzero(np.diff(codes)) + 1).tolist()] if always or count > SHORT else [0]
        )
        starts = np.array([*bounds, count] if count else [0], np.int64)
        sizes = np.diff(starts)[:, None].astype(np.float32)
        means = np.add.reduceat(rows, starts[:-1], axis=0) / sizes if count else rows
        return cls(*_read_only(ids, codes, rows, starts, means.astype(np.float32)))

    def save(self, path: Path) -> None:
        """Write them as a file that `open_rows` maps into memory."""
        save_file({name: np.ascontiguousarray(getattr(self, name)) for name in DTYPES}, path)


def open_rows(path: Path, dimension: int) -> CellRows:
    """Rows of a file, mapped into memory: what is not looked at is not read.

    The vectors are taken as they are: they were finite when the file was written, and its digest
    has been verified.

    Raises:
        SnapshotError: naming the file, if it is malformed or of another dimension.
        OSError: if it cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:  # numpy's would copy
            if sorted(file.keys()) != sorted(DTYPES):
                raise SnapshotError(f"{path.name} holds {sorted(file.keys())}, not a list")
            parts = {name: file.get_slice(name) for name in DTYPES}
            for name, dtype in DTYPES.items():
                if parts[name].get_dtype() != dtype:
                    raise SnapshotError(f"{path.name}: {name} are {parts[name].get_dtype()}")
            shapes = {name: list(part.get_shape()) for name, part in parts.items()}
            count, cells = shapes["item_ids"], shapes["starts"]
            if (
                len(count) != 1
                or len(cells) != 1
                or shapes["seconds"] != count
                or shapes["vectors"] != [*count, dimension]
                or shapes["means"] != [cells[0] - 1, dimension]
            ):
                raise SnapshotError(
                    f"{path.name}: shapes {shapes} do not fit a list of dimension {dimension}"
                )
            ids, seconds, vectors, starts, means = _read_only(
                *(file.get_tensor(name).numpy() for name in DTYPES)
            )
    except SafetensorError as error:
        raise SnapshotError(f"{path.name}: {error}") from error
    ends = starts[0] == 0 and starts[-1] == len(ids) and bool((np.diff(starts) > 0).all())
    if not ends or not np.isfinite(means).all():
        raise SnapshotError(f"{path.name}: its cells do not fit its rows")
    return CellRows(ids, seconds, vectors, starts, means)


def checked(item_ids: Ids, codes_nQ: NDArray[np.integer], vectors: Floats, where: str) -> None:
    """Refuse rows that no list may hold.

    Raises:
        IndexerError: saying what is wrong with them.
    """
    if item_ids.ndim != 1 or vectors.ndim != 2 or len(item_ids) != len(vectors):
        raise IndexerError(
            f"{where}: ids {item_ids.shape} and vectors {vectors.shape} do not match"
        )
    if not 1 <= vectors.shape[1] <= MAX_DIMENSION or len(item_ids) > MAX_ITEMS:
        raise IndexerError(f"{where}: absurd size {vectors.shape}")
    if codes_nQ.ndim != 2 or codes_nQ.shape[1] < 1 or len(codes_nQ) != len(item_ids):
        raise IndexerError(f"{where}: {codes_nQ.shape} codes for {item_ids.shape} items")
    # Where the sum of a row is finite, all of it is, and a sum is quicker than as many questions.
    if not np.isfinite(vectors.sum(axis=1)).all():
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            raise IndexerError(f"{where}: the vector of item {item_ids[~finite][0]} is not finite")


def _read_only(*arrays: NDArray) -> list[NDArray]:
    for array in arrays:
        array.flags.writeable = False
    return list(arrays)
