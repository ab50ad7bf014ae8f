"""What would be served: a published model with its index, built as the indexer builds it.

The indexer's own assignment, drift and rebuild rules make the lists of each version from the one
before; what is left out is the disk. Shapes: C codes, B queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from indexer.building.build import Build, build
from indexer.building.drift import Geometry
from indexer.indexing.config import IndexerConfig
from indexer.indexing.item_store import ListedItem
from indexer.search.answers import Answers
from indexer.search.config import SearchConfig
from indexer.search.soft_search import SoftSearch
from indexer.snapshots.item_table import ItemTable
from indexer.snapshots.snapshot import Snapshot
from indexer.snapshots.snapshot_facts import SnapshotFacts
from model.artifacts.manifest import Manifest
from model.evaluation.protocol import LIST_LENGTH, Queries
from model.learning.export import Export
from model.retrieval.retrieval_model import RetrievalModel
from streaming.events import Item


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
        built: assignment, lists, drift against the version before.
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
        self._indexer = indexer
        self._search = search
        self._parent: Snapshot | None = None
        self._geometry: Geometry | None = None

    def publish(self, handover: Handover) -> Served:
        """The next version, which shares with the one before what the indexer's rule allows.

        Raises:
            IndexerError: if the model must not be served.
        """
        model = handover.model
        version = self._parent.version + 1 if self._parent else 1
        built = self._build(model, self._parent, self._geometry)
        lists = built.rebuild.lists
        codes_NQ = built.assignment.codes_NQ.astype(np.int16)
        table = ItemTable(built.assignment.item_ids_N, codes_NQ, pa.table({}))
        nowhere = Manifest("snapshot", {}, {}, "")
        self._parent = Snapshot(
            SnapshotFacts(version=version), Path(), nowhere, model, lists, table
        )
        codes_N = model.codes_NQ[:, 0].astype(np.int64)
        self._geometry = Geometry.measure(model.centroids_CD, model.quantizer_space(None), codes_N)
        return Served(version, handover, SoftSearch(model, lists, self._search), built)

    def once(self, handover: Handover) -> Served:
        """A version that has no parent and becomes none; its number is 0.

        Raises:
            IndexerError: if the model must not be served.
        """
        built = self._build(handover.model, None, None)
        search = SoftSearch(handover.model, built.rebuild.lists, self._search)
        return Served(0, handover, search, built)

    def _build(
        self, model: RetrievalModel, parent: Snapshot | None, geometry: Geometry | None
    ) -> Build:
        return build(
            model,
            self._listed,
            (),
            parent,
            geometry,
            drift_threshold=self._indexer.drift_threshold,
            vector_tolerance=self._indexer.vector_tolerance,
        )
