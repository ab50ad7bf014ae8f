"""Follows the properties of items: what changed is read, and nothing else.

Before an indexer of this program has written any, `withdrawn.json` of an older one says which items
are withdrawn.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa

from indexer.catalogue.item_columns import ALWAYS, ATTRIBUTE, ItemColumns
from indexer.catalogue.property_chain import (
    POINTER,
    PropertyPointer,
    covers,
    damage,
    read_file,
    read_pointer,
)
from indexer.catalogue.property_rows import item, withdrawn
from indexer.errors import IndexerError, SnapshotError
from model.artifacts.verified_files import VerifiedFiles
from streaming.items import Item

WITHDRAWN = "withdrawn.json"
"""Of older versions of this program: `{"items": [7, 12]}`."""
FILES = (POINTER, WITHDRAWN)
"""Where a change shows itself."""
TRIES = 8
"""The indexer may have replaced the files between a look at the pointer and one at them."""


class PropertyReader:
    """Reads the properties of a data directory's items; threads may share it.

    Attributes:
        columns: of all items, as last read; immutable.
    """

    def __init__(self, data_dir: Path, verified: VerifiedFiles | None = None) -> None:
        self._data_dir = data_dir
        self._verified = verified or VerifiedFiles()
        self._lock = threading.Lock()
        self._states: list[tuple[str, pa.RecordBatch, ItemColumns]] = []
        self._pointer = PropertyPointer()
        self.columns = ItemColumns()

    @property
    def position(self) -> Mapping[int, int]:
        """Partition of `items` -> next offset that is not covered by what was read."""
        return self._pointer.position

    def covering(self, position: Mapping[int, int]) -> ItemColumns | None:
        """What was read last, if it holds all that `items` said before a position; else None."""
        with self._lock:
            return self.columns if covers(self._pointer.position, position) else None

    def read(self) -> ItemColumns:
        """What holds now; costs what changed since it was read last.

        Raises:
            SnapshotError: if any of it is damaged; `columns` are then as before.
        """
        with self._lock:
            for _ in range(TRIES):
                try:
                    self._follow()
                except FileNotFoundError:
                    continue
                return self.columns
            raise SnapshotError(damage(self._data_dir / POINTER, "a file that it names is missing"))

    def _follow(self) -> None:
        pointer = read_pointer(self._data_dir)
        if pointer is None:
            self._take_former()
            return
        if pointer == self._pointer and len(self._states) == len(pointer.files):
            return
        states = []
        for one, before in zip(pointer.files, self._states, strict=False):
            if one.sha256 != before[0]:
                break
            states.append(before)
        columns = states[-1][2] if states else ItemColumns()
        for one in pointer.files[len(states) :]:
            batch = read_file(self._data_dir, one, self._verified.digest)
            try:
                columns = columns.with_part(_asked_for(batch))
            except IndexerError as error:
                raise SnapshotError(damage(self._data_dir / one.file, str(error))) from error
            states.append((one.sha256, batch, columns))
        # together: what is read and what it is read from
        self._states, self._pointer, self.columns = states, pointer, columns

    def _take_former(self) -> None:
        ids = former_withdrawals(self._data_dir)
        if ids != self.columns.unlisted.tolist() or self._states:
            self._states, self._pointer = [], PropertyPointer()
            self.columns = ItemColumns.of([_asked_for(withdrawn(ids))] if ids else [])

    def item(self, item_id: int) -> Item | None:
        """An item as it was announced last, by what was read; None where nothing is kept of it."""
        with self._lock:
            states = self._states
        for _, batch, columns in reversed(states):
            at = int(columns.parts[-1].find(np.array([item_id], np.int64))[0])
            if at >= 0:
                return item(batch, at)
        return None

    def external_ids(self, item_ids: Sequence[int]) -> list[str]:
        """What the shop calls some items; empty where nothing is known, or a number is."""
        with self._lock:
            states = self._states
        wanted_n, found = np.array(item_ids, np.int64), [""] * len(item_ids)
        open_n = np.arange(len(wanted_n))  # not found in a newer file
        for _, batch, columns in reversed(states):
            at = columns.parts[-1].find(wanted_n[open_n])
            here = at >= 0
            texts = batch.column("external_id")
            for place, row in zip(open_n[here].tolist(), at[here].tolist(), strict=True):
                found[place] = texts[row].as_py() or ""
            open_n = open_n[~here]
        return found


def read_columns(data_dir: Path, verified: VerifiedFiles | None = None) -> ItemColumns:
    """The properties of a data directory's items, once.

    Raises:
        SnapshotError: if any of it is damaged.
    """
    return PropertyReader(data_dir, verified).read()


def former_withdrawals(data_dir: Path) -> list[int]:
    """Ids of the items that an older version of this program withdrew, ascending.

    Raises:
        SnapshotError: if its file is damaged.
    """
    path = data_dir / WITHDRAWN
    try:
        ids = orjson.loads(path.read_bytes())["items"]
        if not isinstance(ids, list) or not {int}.issuperset(map(type, ids)):
            raise ValueError("no list of integers")
        return np.unique(np.array(ids, np.int64)).tolist()
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError, OverflowError, OSError) as error:
        raise SnapshotError(damage(path, str(error))) from error


def _asked_for(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The columns that a search asks for."""
    names = [name for name, _ in ALWAYS]
    return batch.select([*names, *(n for n in batch.schema.names if n.startswith(ATTRIBUTE))])
