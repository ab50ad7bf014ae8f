"""What may answer a query: by state and validity of the items, by a filter, by ids.

What was asked for lately is kept, as far as the memory for it goes. A change of a few items costs
the look-up of these, and of each filter one pass over the columns when it comes again.

Shapes: N rows of all lists, R rows of all files of properties.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Collection
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from indexer.catalogue.filter import Filter
from indexer.catalogue.item_columns import ItemColumns
from indexer.search.selection import Selection
from indexer.search.soft_search import SoftSearch

KEPT_BYTES = 64 << 20
"""Memory for selections that may be asked for again."""
Key = tuple[str, int]


class Answerable:
    """Selects from the lists of one version; safe to share by threads.

    Args:
        search: of the version.
        columns: the properties of the items.
        before: another one, whose work is taken over where it holds for this one, too.
    """

    def __init__(
        self, search: SoftSearch, columns: ItemColumns, before: Answerable | None = None
    ) -> None:
        self._search = search
        self._columns = columns
        # which columns, and the row of them of each position
        self._known: tuple[ItemColumns, NDArray[np.int32]] | None = None
        if before is not None and before._search.lists is search.lists:
            ready = "_rows_N" in vars(before)
            self._known = (before._columns, before._rows_N) if ready else before._known
        self._lock = threading.Lock()
        self._kept: OrderedDict[Key, Selection | None] = OrderedDict()
        self._bytes = 0

    def searched_by(self, search: SoftSearch) -> Answerable:
        """The same of another search of the same lists."""
        return Answerable(search, self._columns, self)

    def of(
        self, filter_: Filter | None, ids: Collection[int] | None, now_ms: int
    ) -> Selection | None:
        """What may answer; None: all that is in the lists.

        Args:
            filter_: passes it; None: any item.
            ids: is one of these; None: any item.
            now_ms: may be answered then.

        Raises:
            FilterError: if the filter makes no sense of what items there are.
        """
        key = ("" if filter_ is None else filter_.text, self._columns.period(now_ms))
        with self._lock:
            if known := key in self._kept:
                self._kept.move_to_end(key)
                selection = self._kept[key]
        if not known:
            selection = self._selected(filter_, now_ms)
            self._keep(key, selection)
        if ids is None:
            return selection
        lists = self._search.lists
        positions, codes = lists.positions_of(np.fromiter(ids, np.int64, len(ids)))
        mask_N = np.zeros(int(lists.lengths_C.sum()), np.bool_)
        mask_N[positions[codes >= 0]] = True
        return self._search.select(mask_N if selection is None else mask_N & selection.mask_N)

    def _selected(self, filter_: Filter | None, now_ms: int) -> Selection | None:
        lists = self._search.lists
        blocked, codes = lists.positions_of(self._columns.unanswerable(now_ms))
        blocked = blocked[codes >= 0]
        if filter_ is not None:
            mask_N = filter_.mask(self._columns)[self._rows_N]
        elif len(blocked):
            mask_N = np.ones(int(lists.lengths_C.sum()), np.bool_)
        else:
            return None
        mask_N[blocked] = False
        return self._search.select(mask_N)

    def _keep(self, key: Key, selection: Selection | None) -> None:
        with self._lock:
            if key in self._kept:
                return
            self._kept[key] = selection
            self._bytes += _memory(key, selection)
            while self._bytes > KEPT_BYTES and len(self._kept) > 1:
                self._bytes -= _memory(*self._kept.popitem(last=False))

    @cached_property
    def _rows_N(self) -> NDArray[np.int32]:
        """The row of properties of each position in the lists; -1, the last, where it has none."""
        known, columns, lists = self._known, self._columns, self._search.lists
        self._known = None
        if known is None:
            return columns.rows_of(lists.item_ids_N).astype(np.int32)
        same, new = columns.beside(known[0])
        rows_N = known[1].copy()
        elsewhere = lists.item_ids_N[rows_N >= same]
        ids = np.concatenate([elsewhere, *(part.ids_n for part in new)])
        positions, codes = lists.positions_of(ids)
        there = codes >= 0
        rows_N[positions[there]] = columns.rows_of(ids[there])
        return rows_N


def _memory(key: Key, selection: Selection | None) -> int:
    """Bytes of what is kept: of few items the filter may be the larger part."""
    return sys.getsizeof(key[0]) + (0 if selection is None else selection.nbytes)
