"""From a learner to a reader, by what changed: the learner's handovers, indexed and loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import model.artifacts.chain as chain_module
from indexer.indexing.config import IndexerConfig
from indexer.indexing.indexer import Indexer
from indexer.indexing.item_store import ItemStore
from indexer.search.config import SearchConfig
from indexer.search.query import Query
from indexer.search.retriever import Retriever
from indexer.snapshots.snapshot_reading import load_served, load_snapshot
from model.artifacts.handover_facts import HandoverFacts
from model.artifacts.verified_files import VerifiedFiles
from model.learning.learner import Learner
from model.retrieval.retrieval_model import RetrievalModel
from model.training.handover import HandoverDirectory
from streaming.items import Item
from tests.indexer.driving import announce
from tests.indexer.same_snapshots import same_snapshots
from tests.model.learning.test_learner import SMALL, batches
from tests.model.synthetic_stream import make_items, make_sequences

ITEMS = make_items(300)
SEQUENCES = make_sequences(ITEMS[:150], 800)


@pytest.mark.parametrize("floor", [0, 1 << 20])
def test_versions_follow_a_learner_and_readers_follow_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, floor: int
) -> None:
    monkeypatch.setattr(chain_module, "FLOOR", floor)
    learner, handovers = (
        Learner(SMALL),
        HandoverDirectory(tmp_path / "handover", 4, RetrievalModel.load),
    )
    store = ItemStore(tmp_path / "indexer" / "rocksdb")
    indexer = Indexer(IndexerConfig(keep_versions=3), store, tmp_path, lambda: 7)
    indexer.recover()
    held, verified, published = None, VerifiedFiles(), None
    listed = ITEMS[:250]
    learner.list_items(listed)
    announce(indexer, listed)
    for number, batch in enumerate(batches(SEQUENCES)[:5], 1):
        again = Item(ITEMS[3].item_id, f"a soap of another kind {number}", "1")
        late = ITEMS[250 + number]  # the learner has not read it yet
        announce(indexer, [again, late])
        indexer.append_waiting()
        learner.learn(batch)
        export = learner.export(published)
        learner.mark_published()
        facts = HandoverFacts(
            sequence=number,
            follows=number - 1,
            offsets={"items": {"0": len(listed)}},
            event_time_range=[0, batch[-1].event_time],
            model=export.facts,
        )
        handovers.publish(number, export, facts)
        published = handovers.items(number)
        assert published is not None and indexer.index_handover(number) == number
        held = load_served(tmp_path, None, held, verified)
        assert held is not None
        same_snapshots(held, load_snapshot(held.path))
        learnt = learner.retrieval_model()
        others = learnt.item_ids_N[learnt.item_ids_N != again.item_id]
        near = held.lists.vectors_of(others) - learnt.vectors_ND[learnt.rows(others)]
        assert np.linalg.norm(near, axis=1).max() < 0.05  # within the learner's tolerance
        told = held.describe([again.item_id, late.item_id])
        assert [row["title"] for row in told] == [again.title, late.title]
        answer = Retriever(held, SearchConfig()).answer(Query([ITEMS[5].item_id], k=20))
        assert len(answer.items) == 20
    store.close()
    assert held.facts.moved_items and held.facts.moved_items < len(held.lists)
