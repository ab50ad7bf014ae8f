"""What would be served: a published model with its index, built as the indexer builds it.

The indexer's own placing, drift and rebuild rules make the lists of each version from the one
before; what is left out is the disk. Shapes: C codes, B queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from indexer.building.build import Build, build
from indexer.building.placing import ListedItem, place
from indexer.indexing.config import IndexerConfig
from indexer.search.answers import Answers
from indexer.search.config import SearchConfig
from indexer.search.soft_search import SoftSearch
from indexer.snapshots.item_table import ItemTable
from indexer.snapshots.snapshot import Snapshot
from model.evaluation.protocol import LIST_LENGTH, Queries
from model.learning.export import Export
from model.retrieval.retrieval_model import RetrievalModel
from streaming.items import Item


@dataclass(frozen=True)
class Handover:
    """What the learner publishes, and the model that is made of it."""

    export: Export
    model: RetrievalModel


@dataclass(frozen=True)
class Served:
    """One version: model, index, and how the index was made.

    Attributes:
        version: counted from 1; 0 for one that has no successors.
        handover: of the learner.
        search: answers from the lists.
        built: lists, placed items, drift against the version before.
    """

    version: int
    handover: Handover
    search: SoftSearch
    built: Build

    def answer(self, queries: Queries) -> Answers:
        """The 50 best items of each query, none of its history."""
        return ask(self.search, queries)


def ask(search: SoftSearch, queries: Queries) -> Answers:
    """The 50 best items of each query of a day."""
    now_ms = np.full(len(queries), queries.now_ms, dtype=np.int64)
    return search.search(queries.histories, now_ms, LIST_LENGTH)


class Publisher:
    """Publishes one version after the other.

    Args:
        items: the catalogue; all of it is listed from the first day on.
        indexer: thresholds of the rebuild.
        search: how queries are answered.
    """

    def __init__(self, items: Sequence[Item], indexer: IndexerConfig, search: SearchConfig) -> None:
        self._listed = [ListedItem(item, 0, 0, offset) for offset, item in enumerate(items)]
        self._ids_N = np.array([item.item_id for item in items], np.int64)
        self._indexer = indexer
        self._search = search
        self._parent: Snapshot | None = None

    def publish(self, handover: Handover) -> Served:
        """The next version, which shares with the one before what the indexer's rule allows.

        Raises:
            IndexerError: if the model must not be served.
        """
        version = self._parent.version + 1 if self._parent else 1
        built = self._build(handover.model, self._parent)
        self._parent = built.snapshot(version, ItemTable())
        search = SoftSearch(handover.model, self._parent.lists, self._search)
        return Served(version, handover, search, built)

    def once(self, handover: Handover) -> Served:
        """A version that has no parent and becomes none; its number is 0.

        Raises:
            IndexerError: if the model must not be served.
        """
        built = self._build(handover.model, None)
        lists = built.snapshot(0, ItemTable()).lists
        return Served(0, handover, SoftSearch(handover.model, lists, self._search), built)

    def _build(self, model: RetrievalModel, parent: Snapshot | None) -> Build:
        unknown = np.flatnonzero(model.items.rows(self._ids_N) < 0).tolist()
        return build(
            model,
            place(model, [self._listed[at] for at in unknown]),
            parent,
            drift_threshold=self._indexer.drift_threshold,
        )
