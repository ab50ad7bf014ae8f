"""Tells readers what holds of every item, of all that `items` said.

The store is written first, then this. A crash between the two leaves readers with what they had,
and the next start tells them what they missed.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from itertools import islice
from pathlib import Path

import pyarrow as pa
import structlog

from indexer.catalogue.property_chain import PropertyChain, covers
from indexer.catalogue.property_reader import WITHDRAWN, former_withdrawals
from indexer.catalogue.property_rows import merged, rows, withdrawn
from indexer.errors import SnapshotError
from indexer.indexing.item_store import ItemStore
from streaming.items import Item

log = structlog.get_logger(__name__)

CHUNK = 65_536
"""Items held as objects at once."""


class ToldProperties:
    """Writes the properties that a store knows of.

    Args:
        store: what `items` said.
        data_dir: the pipeline's directory.
    """

    def __init__(self, store: ItemStore, data_dir: Path) -> None:
        self._store = store
        self._data_dir = data_dir
        self._chain = PropertyChain(data_dir)
        self._anew = False  # what readers were told is of no use
        self._unknown = False  # up to where it is what `items` said

    def recover(self) -> set[int]:
        """Go on with what readers were told; returns the ids of items of which they missed some."""
        self._chain = PropertyChain(self._data_dir)
        position = self._store.position
        try:
            there = self._chain.open()
            former = [] if there or position else former_withdrawals(self._data_dir)
            if former:
                self._chain.append(withdrawn(former), {})
            self._anew = not there and bool(former or position)
            self._unknown = bool(former)
        except SnapshotError as error:
            log.error("written anew from what `items` said", reason=str(error))
            self._anew, self._unknown = True, not position
        told = dict(self._chain.pointer.position)
        if not covers(position, told):
            self._anew = True
        if self._anew or told == position:
            return set()
        return set(self._store.said_since(told).tolist())

    def tell(self, changed: Set[int], withdrawn: Set[int], behind: bool) -> bool:
        """Bring readers to what the store knows.

        Args:
            changed: ids of the items of which they were not told all.
            withdrawn: ids of all that are withdrawn and not forgotten.
            behind: the store may know less than they were told; then nothing is told until it has
                caught up with that.

        Returns:
            Whether they know all now.

        Raises:
            OSError: if it cannot be written; readers have what they had.
        """
        position, told = self._store.position, self._chain.pointer.position
        late = self._unknown or not covers(position, told)
        if late and (behind or not position):
            return False
        if self._anew or late:
            self._begin(position)
        elif changed or told != position:
            said = ((item_id, self._store.said_of(item_id)) for item_id in sorted(changed))
            try:
                self._chain.append(_batch(said), position, withdrawn)
            except SnapshotError as error:
                log.error("written anew from what `items` said", reason=str(error))
                self._begin(position)
        return True

    def _begin(self, position: dict[int, int]) -> None:
        self._chain.begin(_batch(self._store.all_said()), position)
        self._anew = self._unknown = False
        (self._data_dir / WITHDRAWN).unlink(missing_ok=True)


def _batch(said: Iterable[tuple[int, Item | None]]) -> pa.RecordBatch:
    """Rows of some items, each there once."""
    said, batches = iter(said), []
    while some := dict(islice(said, CHUNK)):
        batches.append(rows(some))
    return merged(batches or [rows({})])
