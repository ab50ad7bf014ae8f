"""The catalogue as the learner knows it: a row for every item, growing without a restart.

Shapes: N items, T title words.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from model.histories import NO_ROW
from model.tables.item_features import TITLE_BUCKETS, TITLE_WORDS, hash_features
from streaming.events import Item


class Catalogue:
    """Item ids, their rows and their hashed features; rows are given in order of listing.

    Arrays double when they are full, so that listing an item costs amortised O(1).
    """

    def __init__(self) -> None:
        self._size = 0
        self._row_of: dict[int, int] = {}
        self._ids = np.zeros(1024, dtype=np.int64)
        self._words = np.zeros((1024, TITLE_WORDS), dtype=np.int64)
        self._category = np.zeros(1024, dtype=np.int64)
        self._items_with_W = np.zeros(TITLE_BUCKETS, dtype=np.int64)

    def __len__(self) -> int:
        return self._size

    @property
    def item_ids_N(self) -> np.ndarray:
        """Ids in row order."""
        return self._ids[: self._size]

    @property
    def words_NT(self) -> np.ndarray:
        """Hashed title words in row order."""
        return self._words[: self._size]

    @property
    def category_N(self) -> np.ndarray:
        """Hashed categories in row order."""
        return self._category[: self._size]

    @property
    def idf_W(self) -> np.ndarray:
        """Inverse document frequency of each word bucket: log(N / df) + 1, float32."""
        df_W = np.maximum(self._items_with_W, 1)
        return (np.log(max(self._size, 1) / df_W) + 1).astype(np.float32)

    def _count(self, words_nT: np.ndarray, sign: int) -> None:
        for words_T in words_nT:
            used = np.unique(words_T[words_T > 0])
            self._items_with_W[used] += sign

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Rows of ids, in the same shape; `NO_ROW` where an id is unknown."""
        row_of = self._row_of
        flat = (row_of.get(i, NO_ROW) for i in ids.ravel().tolist())
        return np.fromiter(flat, np.int64, ids.size).reshape(ids.shape)

    def add(self, items: Sequence[Item]) -> int:
        """List items; an item listed again takes its new features. Returns how many are new."""
        before = self._size
        rows = np.empty(len(items), dtype=np.int64)
        for n, item in enumerate(items):
            rows[n] = row = self._row_of.setdefault(item.item_id, self._size)
            if row == self._size:
                self._size += 1
        self._reserve(self._size)
        features = hash_features(items)
        for n, item in enumerate(items):  # in order: the last listing of an item wins
            self._ids[rows[n]] = item.item_id
            self._count(self._words[rows[n]][None], -1)
            self._words[rows[n]] = features.words_NT[n]
            self._count(self._words[rows[n]][None], 1)
            self._category[rows[n]] = features.category_N[n]
        return self._size - before

    def _reserve(self, size: int) -> None:
        capacity = len(self._ids)
        while capacity < size:
            capacity *= 2
        if capacity > len(self._ids):
            for name in ("_ids", "_words", "_category"):
                old = getattr(self, name)
                new = np.zeros((capacity, *old.shape[1:]), dtype=old.dtype)
                new[: len(old)] = old
                setattr(self, name, new)

    def state(self) -> dict[str, Tensor]:
        """Copies of the arrays."""
        return {
            "item_ids_N": torch.from_numpy(self.item_ids_N.copy()),
            "words_NT": torch.from_numpy(self.words_NT.astype(np.int32)),
            "category_N": torch.from_numpy(self.category_N.astype(np.int32)),
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` gave."""
        self._size = len(state["item_ids_N"])
        self._reserve(self._size)
        self._ids[: self._size] = state["item_ids_N"].numpy()
        self._words[: self._size] = state["words_NT"].numpy()
        self._category[: self._size] = state["category_N"].numpy()
        self._items_with_W[:] = 0
        self._count(self.words_NT, 1)
        self._row_of = {i: n for n, i in enumerate(self.item_ids_N.tolist())}
