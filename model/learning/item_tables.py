"""What the learner keeps of items and codes beside the weights of its network.

Shapes: N rows of items, S rows at hand, T title words, W words at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from model.histories import NO_ROW
from model.launches import on
from model.learning.candidates import CandidateSample
from model.learning.learner_state import by_group
from model.network.item_tower import ItemInputs, Titles, content_rows, initial_ids
from model.network.sparc_config import SparcConfig
from model.tables.capacity import with_room
from model.tables.catalogue import Catalogue
from model.tables.cooccurrence import Cooccurrence
from model.tables.decayed_counts import Popularity
from model.tables.item_features import CATEGORY_BUCKETS, TITLE_BUCKETS
from model.tables.row_table import RowTable
from model.tables.touched_rows import CHECKPOINT, TouchedRows
from streaming.items import Item


class Table(Protocol):
    """What is kept as a base and changes."""

    def changes(self, whole: bool) -> dict[str, Tensor]:
        """All rows, or those that changed since the last call."""

    def apply(self, changes: dict[str, Tensor]) -> None:
        """Take over what `changes` gave, on top of what was given before it."""


class ItemTables:
    """Rows, counts and codes that grow with the catalogue.

    Args:
        model: sizes.
        seed: of the initial rows.
        log_size: events whose counts can be looked up at their time.
        candidates: items of a sample of negatives.
        device: of the rows that are learnt.

    Attributes:
        model, device: as given.
        catalogue: ids and hashed features.
        ids, words, categories: rows that are learnt.
        popularity, code_popularity: decayed counts of items and of codes.
        neighbours: co-occurrence.
        candidates: items with events, to draw negatives from.
    """

    def __init__(
        self, model: SparcConfig, seed: int, log_size: int, candidates: int, device: torch.device
    ) -> None:
        self.model, self.device, self._seed = model, device, seed
        self.catalogue = Catalogue()
        self.ids = RowTable(model.item_tower.dimension, self._initial_ids, device)
        self.words = content_rows(seed + 1, TITLE_BUCKETS, model.item_tower, device)
        self.categories = content_rows(seed + 2, CATEGORY_BUCKETS, model.item_tower, device)
        self.popularity = Popularity(model.popularity_half_lives_days, log_size)
        self.code_popularity = Popularity(model.popularity_half_lives_days, log_size)
        self.code_popularity.grow(model.quantizer.codes)
        self.neighbours = Cooccurrence(model.neighbours)
        self.candidates = CandidateSample(candidates)
        self._codes = np.zeros(0, dtype=np.int64)
        self._events = np.zeros(0, dtype=np.int64)
        self._touched = TouchedRows()
        self._positions = np.zeros(0, dtype=np.int64)
        self._whole: tuple[int, tuple[Tensor, Tensor, Titles, Tensor]] | None = None

    def _initial_ids(self, rows_n: np.ndarray) -> Tensor:
        ids_n = self.catalogue.item_ids_N[rows_n]
        return initial_ids(self._seed, ids_n, self.model.item_tower)

    def __len__(self) -> int:
        """Rows, those of forgotten items among them."""
        return len(self.catalogue)

    @property
    def codes_N(self) -> np.ndarray:
        """First-level code of each item when it was last looked at, int64; `NO_ROW`: never."""
        return self._codes[: len(self)]

    @property
    def events_N(self) -> np.ndarray:
        """Events of each item, int64."""
        return self._events[: len(self)]

    @property
    def learnt_rows(self) -> tuple[RowTable, ...]:
        """The tables that gradients reach."""
        return self.ids, self.words, self.categories

    def list_items(self, items: Sequence[Item]) -> None:
        """Make items known; one listed again takes its new title and category."""
        before = len(self)
        new_n = self.catalogue.add(items)
        self._grow()
        if len(again_n := new_n[new_n < before]):
            self.ids.renew(again_n)

    def forget(self, ids_n: np.ndarray) -> np.ndarray:
        """Forget items wholly; returns their rows, ascending, which new items will take.

        Those that are not known are passed over. Costs passes over what is counted.
        """
        rows_n = self.catalogue.forget(ids_n)
        if len(rows_n):
            self.ids.renew(rows_n)
            self.popularity.forget(rows_n)
            self.neighbours.forget(rows_n)
            self.candidates.forget(rows_n)
            self.codes_N[rows_n], self.events_N[rows_n] = NO_ROW, 0
            self._touched.mark(rows_n)
        return rows_n

    def _grow(self) -> None:
        size = len(self)
        self.ids.grow(size)
        self.popularity.grow(size)
        self.neighbours.grow(size)
        self._codes = with_room(self._codes, size, NO_ROW)
        self._events = with_room(self._events, size)

    def tensor(self, array: np.ndarray) -> Tensor:
        """An array on the device."""
        return on(self.device, torch.from_numpy(np.ascontiguousarray(array)))

    def positions(self, rows_S: np.ndarray, *rows: np.ndarray) -> list[np.ndarray]:
        """Where each of `rows`, of any shape, is among `rows_S`; `NO_ROW` for those that are not.

        Costs what is asked for and not what there is: the array of all is kept, and left empty.
        """
        self._positions = with_room(self._positions, len(self) + 1, NO_ROW)
        position_N = self._positions[: len(self) + 1]  # the last one answers for NO_ROW
        position_N[rows_S] = np.arange(len(rows_S))
        found = [position_N[asked] for asked in rows]
        position_N[rows_S] = NO_ROW
        return found

    def codes(self, rows: np.ndarray) -> np.ndarray:
        """First-level codes of rows of any shape, `NO_ROW` for `NO_ROW`."""
        return np.where(rows == NO_ROW, NO_ROW, self.codes_N[rows])

    def inputs_to_learn(self, rows_S: np.ndarray) -> ItemInputs:
        """What the item tower reads of ascending rows; gradients come back to the tables."""
        words_W, categories_K, titles, category_S = self._content(rows_S)
        return ItemInputs(
            self.ids.gather(self.tensor(rows_S)),
            titles,
            self.words.gather(words_W),
            category_S,
            self.categories.gather(categories_K),
        )

    def _content(self, rows_S: np.ndarray) -> tuple[Tensor, Tensor, Titles, Tensor]:
        """Words and categories that items have, and which of them are whose.

        A catalogue that is taken whole has the same until something is listed.
        """
        listings, whole = self.catalogue.listings, len(rows_S) == self.catalogue.count
        if whole and self._whole is not None and self._whole[0] == listings:
            return self._whole[1]
        words_ST = self.catalogue.words_NT[rows_S]
        used_W, position_b = _used(words_ST, TITLE_BUCKETS)  # position 0 means "no word"
        category_S = self.catalogue.category_N[rows_S]
        used_K, category_b = _used(category_S, CATEGORY_BUCKETS)
        content = (
            self.tensor(used_W),
            self.tensor(used_K),
            Titles(self.tensor(position_b[words_ST]), self.tensor(self.catalogue.idf_W[used_W])),
            self.tensor(category_b[category_S]),
        )
        if whole:
            self._whole = listings, content
        return content

    def inputs(self, rows_S: np.ndarray) -> ItemInputs:
        """The same without gradients."""
        words_ST = self.tensor(self.catalogue.words_NT[rows_S].astype(np.int64))
        return ItemInputs(
            self.ids.look_up(self.tensor(rows_S)),
            Titles(words_ST, self.tensor(self.catalogue.idf_W)),
            self.words.weight_ND,
            self.tensor(self.catalogue.category_N[rows_S].astype(np.int64)),
            self.categories.weight_ND,
        )

    def count(self, rows_B: np.ndarray) -> None:
        """One event more of each row, as often as it is named."""
        np.add.at(self.events_N, rows_B, 1)
        self._touched.mark(rows_B)

    def note_codes(self, rows_S: np.ndarray, codes_S: np.ndarray) -> None:
        """What first-level codes items were seen to have."""
        changed = self.codes_N[rows_S] != codes_S
        self.codes_N[rows_S] = codes_S
        self._touched.mark(rows_S[changed])

    def changes(self, whole: bool) -> dict[str, Tensor]:
        """Rows that changed since the last call, for `apply`; `whole`: all of them."""
        found: dict[str, Tensor] = {}
        for group, table in self.tables().items():
            found |= {f"{group}.{name}": x for name, x in table.changes(whole).items()}
        rows_n = self._touched.take(CHECKPOINT)
        if whole:
            rows_n = np.flatnonzero((self.codes_N != NO_ROW) | (self.events_N > 0))
        own = {
            "rows": rows_n,
            "codes": self.codes_N[rows_n],
            "events": self.events_N[rows_n],
        }
        return found | {f"items.{name}": torch.from_numpy(x) for name, x in own.items()}

    def apply(self, changes: dict[str, Tensor]) -> None:
        """Take over what `changes` gave, on top of what was given before it.

        Raises:
            KeyError: if a table or a tensor is missing.
        """
        groups = by_group(changes)
        for group, table in self.tables().items():
            table.apply(groups[group])
        self._grow()
        own = {name: value.numpy() for name, value in groups["items"].items()}
        self.codes_N[own["rows"]], self.events_N[own["rows"]] = own["codes"], own["events"]

    def tables(self) -> dict[str, Table]:
        """By name; the catalogue comes first, as initial values follow from ids."""
        return {
            "catalogue": self.catalogue,
            "ids": self.ids,
            "words": self.words,
            "categories": self.categories,
            "popularity": self.popularity,
            "code_popularity": self.code_popularity,
            "neighbours": self.neighbours,
            "candidates": self.candidates,
        }


def _used(buckets: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Bucket 0 and those at hand, ascending, and the position of each bucket among them."""
    used_b = np.zeros(count, np.bool_)
    used_b[buckets] = used_b[0] = True
    return np.flatnonzero(used_b), np.cumsum(used_b) - 1
