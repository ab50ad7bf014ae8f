from __future__ import annotations

import numpy as np
import pytest

from indexer.search import soft_search
from indexer.search.config import SearchConfig
from indexer.search.soft_search import ServedPath
from model.histories import History
from model.learning.export import Export
from model.learning.learner import Learner
from model.retrieval.item_segments import ItemSegments
from model.retrieval.retrieval_model import RetrievalModel
from streaming.items import Item
from tests.model.learning.test_learner import SMALL, batches
from tests.model.synthetic_stream import make_items, make_sequences

ITEMS = make_items(400)
SEQUENCES = make_sequences(ITEMS[:150], 1000)


def models(count: int) -> list[RetrievalModel]:
    """Published one after the other, each saying what changed; items are listed in between."""
    learner, found, items = Learner(SMALL), [], None
    learner.list_items(ITEMS[:300])
    for number, batch in enumerate(batches(SEQUENCES)[: 2 * count : 2]):
        learner.list_items([Item(10 + number, "a new soap", "1")])
        learner.learn(batch)
        export = learner.export(items)
        learner.mark_published()
        items = after(items, export)
        found.append(RetrievalModel(export.tensors, export.facts, items))
    return found


def after(items: ItemSegments | None, export: Export) -> ItemSegments:
    if items is None:
        return ItemSegments.of([export.segment])
    return items.with_segment(export.segment)


def answers(path: ServedPath) -> np.ndarray:
    asked = SEQUENCES[-60:]
    histories = [History(s.history_items, s.history_times) for s in asked]
    return path.answer(histories, np.array([s.event_time for s in asked]), 20)


@pytest.mark.parametrize("repacked", [0.0, 0.5, 1e9])
def test_who_follows_answers_as_who_begins_with_the_last(
    monkeypatch: pytest.MonkeyPatch, repacked: float
) -> None:
    """A trainer that crashed builds its path anew, and must be answered alike."""
    monkeypatch.setattr(soft_search, "REPACKED", repacked)
    monkeypatch.setattr("indexer.search.config.LEAST_SCORED", 60)  # so that cells are chosen
    config = SearchConfig(codes=3, evidence=10)
    published = models(5)
    path = ServedPath(config, published[0])
    for model in published[1:]:
        path = path.followed_by(model)
        assert np.array_equal(answers(path), answers(ServedPath(config, model)))
    shared = path._search.lists
    assert set(published[-1].item_ids_N) == set(shared.item_ids_N[shared.item_ids_N >= 0])
    vectors = shared.vectors_of(published[-1].item_ids_N)
    assert np.array_equal(vectors, published[-1].vectors_ND)


def test_behind_a_new_base_it_begins_anew() -> None:
    first, second = models(2)
    base = ItemSegments.of([second.items.as_base()])
    export = Learner(SMALL).export()
    packed = RetrievalModel(export.tensors, export.facts, base)
    path = ServedPath(SearchConfig(), first).followed_by(packed)
    assert np.array_equal(answers(path), answers(ServedPath(SearchConfig(), packed)))
