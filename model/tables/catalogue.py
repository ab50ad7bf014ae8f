"""The catalogue as the learner knows it: a row for every item, growing without a restart.

Shapes: N items, T title words.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from model.tables.capacity import with_room
from model.tables.item_features import TITLE_BUCKETS, TITLE_WORDS, hash_features
from model.tables.row_index import RowIndex
from model.tables.touched_rows import CHECKPOINT, PUBLICATION, TouchedRows
from streaming.events import Item


class Catalogue:
    """Item ids, their rows and their hashed features; rows are given in order of listing.

    Words and categories are int16: there are fewer buckets than that holds.

    Attributes:
        listings: rises whenever items are listed or take new features.
        touched: rows whose features changed.
    """

    def __init__(self) -> None:
        self._index = RowIndex()
        self._words = np.zeros((0, TITLE_WORDS), dtype=np.int16)
        self._category = np.zeros(0, dtype=np.int16)
        self._items_with_W = np.zeros(TITLE_BUCKETS, dtype=np.int64)
        self.touched = TouchedRows()
        self.listings = 0

    def __len__(self) -> int:
        return len(self._index)

    @property
    def item_ids_N(self) -> np.ndarray:
        """Ids in row order."""
        return self._index.ids_N

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
        return (np.log(max(len(self), 1) / df_W) + 1).astype(np.float32)

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Rows of ids, in the same shape; `NO_ROW` where an id is unknown."""
        return self._index.rows(ids)

    def add(self, items: Sequence[Item]) -> int:
        """List items; an item listed again takes its new features. Returns how many are new."""
        before = len(self)
        ids_n = np.fromiter((item.item_id for item in items), np.int64, len(items))
        features = hash_features(items)
        self._put(self._index.add(ids_n), features.words_NT, features.category_N)
        return len(self) - before

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
            "ids": self.item_ids_N[rows_n],
            "words": self._words[rows_n],
            "category": self._category[rows_n],
            "unpublished": self.touched.rows(PUBLICATION),
        }
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def apply(self, changes: dict[str, Tensor]) -> None:
        """Take over what `changes` gave, on top of what was given before it."""
        # rows ascend, so those that are new come in the order in which they were listed
        rows_n = self._index.add(changes["ids"].numpy())
        self._put(rows_n, changes["words"].numpy(), changes["category"].numpy())
        self.touched.load(changes["unpublished"].numpy())
