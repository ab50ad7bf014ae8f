"""A snapshot: everything that answers queries, in one directory that appears whole.

    snapshots/<version, 8 digits>/
        weights.safetensors, items-<handover>.safetensors   from the trainer's handover
        index/<code>.safetensors   the list of each first-level code
        changes.safetensors   how the lists differ from their files
        placed.arrow   items that the model has not learnt, or not as they are listed
        catalogue-<version>.arrow   what is shown of items: a base and deltas
        manifest.json   written last: `SnapshotFacts` and the digest of every file

What did not change is a hard link to the handover or the parent snapshot, so that a version costs
what changed, and is complete by itself. A reader checks digests before it parses anything, each
file once, and then that the parts fit each other, so that codebook, towers and lists of different
versions never answer together. Given a version that it holds, it reads what differs from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from indexer.lists.code_lists import CodeLists
from indexer.snapshots.item_table import ItemTable
from indexer.snapshots.placed_items import PlacedItems
from indexer.snapshots.pointer import Appended
from indexer.snapshots.snapshot_facts import SnapshotFacts
from model.artifacts.manifest import Manifest

if TYPE_CHECKING:  # torch is needed where a model is loaded only
    from model.retrieval.retrieval_model import RetrievalModel

KIND = "snapshot"
WEIGHTS = "weights.safetensors"
CHANGES = "changes.safetensors"
PLACED = "placed.arrow"
INDEX = "index"


@dataclass(frozen=True)
class Snapshot:
    """A verified snapshot, ready to answer.

    Attributes:
        facts: what its manifest says of it.
        path: its directory.
        manifest: digests.
        model: the weights, and the items that it has learnt.
        lists: the items by first-level code, with those placed by the indexer.
        items: what is shown of them.
        learnt: the lists of the directory without placed items: the bases are its files.
        catalogue: the table of the directory.
        absent: int64 ids, ascending: what the model knows and `learnt` does not hold.
        placed: items placed by the indexer: the directory's, then those appended to it.
        appended: the files appended to it that are loaded.
    """

    facts: SnapshotFacts
    path: Path
    manifest: Manifest
    model: RetrievalModel
    lists: CodeLists
    items: ItemTable
    learnt: CodeLists
    catalogue: ItemTable
    absent: NDArray[np.int64]
    placed: tuple[PlacedItems, ...] = ()
    appended: tuple[Appended, ...] = ()

    @property
    def version(self) -> int:
        """Its number."""
        return self.facts.version

    @property
    def appended_items(self) -> set[int]:
        """Ids of the items that are in the lists because they were appended."""
        ids = np.concatenate([np.empty(0, np.int64), *(one.ids_n for one in self.placed[1:])])
        return set(ids[self.lists.locate(ids)[0] >= 0].tolist())

    def without(self, item_ids: NDArray[np.int64]) -> Snapshot:
        """The same without these items; itself where it holds none of them."""
        lists = self.lists.without(item_ids)
        if lists is self.lists:
            return self
        return replace(self, lists=lists, items=self.items.without(item_ids))

    def with_placed(self, placed: PlacedItems) -> Snapshot:
        """The same with items that somebody has placed, wherever they were before.

        Raises:
            IndexerError: as `CodeLists.with_items`.
        """
        return replace(
            self,
            lists=self.lists.with_items(placed.ids_n, placed.codes_nQ, placed.vectors_nD),
            items=self.items.with_rows(placed.rows),
            placed=(*self.placed, placed),
        )

    def as_published(self) -> Snapshot:
        """The same as its directory has it: nothing was appended, placed or taken out since."""
        bare = replace(self, lists=self.learnt, items=self.catalogue, placed=(), appended=())
        for placed in self.placed[:1]:
            bare = bare.with_placed(placed)
        return bare

    def packed(self) -> Snapshot:
        """The same, with all that was placed since in one; what was taken out is there again."""
        if len(self.placed) <= 2:
            return self
        since = PlacedItems.merged(self.placed[1:])
        return replace(self.as_published().with_placed(since), appended=self.appended)

    def codes_of(self, item_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Codes (n, Q) of items, -1 for those that are in no list."""
        items = self.model.items
        rows = items.rows(item_ids)
        codes = np.full((len(item_ids), items.codes_NQ.shape[1]), -1, np.int64)
        codes[rows >= 0] = items.codes_NQ[rows[rows >= 0]]
        for one in self.placed:
            at = one.rows.find(item_ids)
            codes[at >= 0] = one.codes_nQ[at[at >= 0]]
        codes[self.lists.locate(item_ids)[0] < 0] = -1
        return codes

    def mapped_arrays(self) -> list[NDArray[Any]]:
        """Vectors that lie in its files, and not in memory; of an item some places hold several."""
        lists = [one.base.vectors for one in self.learnt.lists]
        return [*lists, *(segment.z_nD for segment in self.model.items.segments)]

    def events_of(self, item_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many events the model has seen of each item."""
        items = self.model.items
        return items.counts.events(items.rows(item_ids))

    def describe(self, item_ids: Sequence[int]) -> list[dict[str, Any]]:
        """For each item: item_id, codes, first_seen, events, title, category, external_id.

        An item that is in no list (also -1, the padding of an answer) has its id alone.
        """
        ids = np.asarray(item_ids, np.int64)
        codes, events = self.codes_of(ids), self.events_of(ids)
        rows = self.items.describe(ids.tolist())
        return [
            {"item_id": int(one), "codes": code.tolist(), "events": int(count), **row}
            if code[0] >= 0
            else {"item_id": int(one)}
            for one, code, count, row in zip(ids, codes, events, rows, strict=True)
        ]
