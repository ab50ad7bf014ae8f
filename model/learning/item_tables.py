"""What the learner keeps of items and codes beside the weights of its network.

Shapes: N items, S rows at hand, T title words, W words at hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from model.histories import NO_ROW
from model.learning.candidates import CandidateSample
from model.network.item_tower import ItemInputs, content_rows, initial_ids
from model.network.sparc import SparcConfig
from model.tables.capacity import with_room
from model.tables.catalogue import Catalogue
from model.tables.cooccurrence import Cooccurrence
from model.tables.decayed_counts import Popularity
from model.tables.item_features import CATEGORY_BUCKETS, TITLE_BUCKETS
from model.tables.row_table import RowTable
from streaming.events import Item


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
        codes_N: int64 first-level code of each item when it was last looked at; `NO_ROW`: never.
        events_N: int64 events of each item.
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
        self.codes_N = np.zeros(0, dtype=np.int64)
        self.events_N = np.zeros(0, dtype=np.int64)
        self._positions = np.zeros(0, dtype=np.int64)

    def _initial_ids(self, first: int, end: int) -> Tensor:
        ids = self.catalogue.item_ids_N[first:end]
        return initial_ids(self._seed, ids, self.model.item_tower)

    def __len__(self) -> int:
        return len(self.catalogue)

    def list_items(self, items: Sequence[Item]) -> None:
        """Make items known; one listed again takes its new title and category."""
        self.catalogue.add(items)
        size = len(self)
        self.ids.grow(size)
        self.popularity.grow(size)
        self.neighbours.grow(size)
        more = size - len(self.codes_N)
        self.codes_N = np.pad(self.codes_N, (0, more), constant_values=NO_ROW)
        self.events_N = np.pad(self.events_N, (0, more))

    def tensor(self, array: np.ndarray) -> Tensor:
        """An array on the device."""
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

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
        """What the item tower reads of rows; gradients of rows come back to the tables."""
        words_ST = self.catalogue.words_NT[rows_S]
        used_W, position_b = _used(words_ST, TITLE_BUCKETS)  # position 0 means "no word"
        category_S = self.catalogue.category_N[rows_S]
        used_K, category_b = _used(category_S, CATEGORY_BUCKETS)
        return ItemInputs(
            self.ids.gather(self.tensor(rows_S)),
            self.tensor(position_b[words_ST]),
            self.words.gather(self.tensor(used_W)),
            self.tensor(self.catalogue.idf_W[used_W]),
            self.tensor(category_b[category_S]),
            self.categories.gather(self.tensor(used_K)),
        )

    def inputs(self, rows_S: np.ndarray) -> ItemInputs:
        """The same without gradients."""
        return ItemInputs(
            self.ids.look_up(self.tensor(rows_S)),
            self.tensor(self.catalogue.words_NT[rows_S].astype(np.int64)),
            self.words.weight_ND,
            self.tensor(self.catalogue.idf_W),
            self.tensor(self.catalogue.category_N[rows_S].astype(np.int64)),
            self.categories.weight_ND,
        )

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Everything that `load` needs, by group."""
        return {
            "catalogue": self.catalogue.state(),
            "ids": self.ids.state(),
            "words": self.words.state(),
            "categories": self.categories.state(),
            "popularity": self.popularity.state(),
            "code_popularity": self.code_popularity.state(),
            "neighbours": self.neighbours.state(),
            "candidates": self.candidates.changes(whole=True),
            "learner": {
                "codes_N": torch.from_numpy(self.codes_N),
                "events_N": torch.from_numpy(self.events_N),
            },
        }

    def load(self, groups: Mapping[str, dict[str, Tensor]]) -> None:
        """Take over what `state` gave.

        Raises:
            KeyError: if a group or a tensor is missing.
        """
        self.catalogue.load(groups["catalogue"])
        self.ids.load(groups["ids"])
        self.words.load(groups["words"])
        self.categories.load(groups["categories"])
        self.popularity.load(groups["popularity"])
        self.code_popularity.load(groups["code_popularity"])
        self.neighbours.load(groups["neighbours"])
        self.candidates.apply(groups["candidates"])
        own = groups["learner"]
        self.codes_N = own["codes_N"].numpy().copy()
        self.events_N = own["events_N"].numpy().copy()


def _used(buckets: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Bucket 0 and those at hand, ascending, and the position of each bucket among them."""
    used_b = np.zeros(count, np.bool_)
    used_b[buckets] = used_b[0] = True
    return np.flatnonzero(used_b), np.cumsum(used_b) - 1
