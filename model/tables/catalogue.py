"""The catalogue as the learner knows it: a row for every item, growing without a restart.

The row of an item that is forgotten is given to another one.

Shapes: N rows, T title words.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from model.histories import NO_ROW
from model.tables.capacity import with_room
from model.tables.item_features import TITLE_BUCKETS, TITLE_WORDS, hash_features
from model.tables.row_index import NO_ITEM, RowIndex
from model.tables.touched_rows import CHECKPOINT, PUBLICATION, TouchedRows
from streaming.items import Item


class Catalogue:
    """Item ids, their rows and their hashed features; rows are given in order of listing.

    Words and categories are int16: there are fewer buckets than that holds.

    Attributes:
        listings: rises whenever items are listed, take new features or are forgotten.
        touched: rows whose item or features changed.
    """

    def __init__(self) -> None:
        self._index = RowIndex()
        self._words = np.zeros((0, TITLE_WORDS), dtype=np.int16)
        self._category = np.zeros(0, dtype=np.int16)
        self._items_with_W = np.zeros(TITLE_BUCKETS, dtype=np.int64)
        self.touched = TouchedRows()
        self.listings = 0

    def __len__(self) -> int:
        """Rows, free ones among them."""
        return len(self._index)

    @property
    def count(self) -> int:
        """Items."""
        return self._index.count

    @property
    def free(self) -> int:
        """Rows without an item."""
        return len(self) - self.count

    @property
    def item_ids_N(self) -> np.ndarray:
        """Ids in row order; `NO_ITEM` where a row is free."""
        return self._index.ids_N

    @property
    def item_rows(self) -> np.ndarray:
        """Rows that hold an item, ascending, int64."""
        if self.count == len(self):
            return np.arange(len(self))
        return np.flatnonzero(self.item_ids_N != NO_ITEM)

    @property
    def words_NT(self) -> np.ndarray:
        """Hashed title words in row order, int16."""
        return self._words[: len(self)]

    @property
    def category_N(self) -> np.ndarray:
        """Hashed categories in row order, int16."""
        return self._category[: len(self)]

    @property
    def idf_W(self) -> np.ndarray:
        """Inverse document frequency of each word bucket: log(N / df) + 1, float32."""
        df_W = np.maximum(self._items_with_W, 1)
        return (np.log(max(self.count, 1) / df_W) + 1).astype(np.float32)

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Rows of ids, in the same shape; `NO_ROW` where an id is unknown."""
        return self._index.rows(ids)

    def add(self, items: Sequence[Item]) -> np.ndarray:
        """List items; one listed again takes its new features. Returns rows of new items (n,)."""
        ids_n = np.fromiter((item.item_id for item in items), np.int64, len(items))
        features = hash_features(items)
        new_n = self._index.rows(ids_n) == NO_ROW
        rows_n = self._index.add(ids_n)
        self._put(rows_n, features.words_NT, features.category_N)
        return np.unique(rows_n[new_n])

    def forget(self, ids_n: np.ndarray) -> np.ndarray:
        """Free the rows of items; returns the rows of those that were known, ascending."""
        rows_n = self._index.remove(ids_n)
        if len(rows_n):
            self._clear(rows_n)
        return rows_n

    def _clear(self, rows_n: np.ndarray) -> None:
        """Rows, each once, have no features any more."""
        self._count(self._words[rows_n], -1)
        self._words[rows_n] = 0
        self._category[rows_n] = 0
        self.touched.mark(rows_n)
        self.listings += 1

    def _put(self, rows_n: np.ndarray, words_nT: np.ndarray, category_n: np.ndarray) -> None:
        """Give rows their features; where one comes twice, the last wins."""
        rows_m, from_end_m = np.unique(rows_n[::-1], return_index=True)
        last_m = len(rows_n) - 1 - from_end_m
        self._words = with_room(self._words, len(self))
        self._category = with_room(self._category, len(self))
        self._count(self._words[rows_m], -1)
        self._words[rows_m] = words_nT[last_m]
        self._category[rows_m] = category_n[last_m]
        self._count(self._words[rows_m], 1)
        self.touched.mark(rows_m)
        self.listings += 1

    def _count(self, words_nT: np.ndarray, sign: int) -> None:
        """Count the items that have each word, once however often it is in a title."""
        sorted_nT = np.sort(words_nT, axis=1)
        first_nT = sorted_nT > 0
        first_nT[:, 1:] &= sorted_nT[:, 1:] != sorted_nT[:, :-1]
        self._items_with_W += sign * np.bincount(sorted_nT[first_nT], minlength=TITLE_BUCKETS)

    def changes(self, whole: bool) -> dict[str, Tensor]:
        """What was listed since the last call, for `apply`; `whole`: everything."""
        rows_n = self.touched.take(CHECKPOINT)
        rows_n = np.arange(len(self)) if whole else rows_n
        arrays = {
            "rows": rows_n,
            "ids": self.item_ids_N[rows_n],
            "words": self._words[rows_n],
            "category": self._category[rows_n],
            "unpublished": self.touched.rows(PUBLICATION),
        }
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def apply(self, changes: dict[str, Tensor]) -> None:
        """Take over what `changes` gave, on top of what was given before it."""
        given = changes["rows"].numpy() if "rows" in changes else None
        rows_n = self._index.put(given, changes["ids"].numpy())
        self._put(rows_n, changes["words"].numpy(), changes["category"].numpy())
        self.touched.load(changes["unpublished"].numpy())
