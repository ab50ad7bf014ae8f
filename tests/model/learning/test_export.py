from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from model.histories import NO_ROW
from model.learning import export as exports
from model.learning.learner import Learner
from model.retrieval.item_segments import ItemSegments
from streaming.items import Item
from tests.model.learning.test_learner import SMALL, batches
from tests.model.synthetic_stream import make_items, make_sequences

COUNT = 300


@pytest.fixture
def learner() -> Learner:
    """After some steps, nothing published."""
    return learnt(Learner(SMALL), 0, 4)


def learnt(learner: Learner, first: int, last: int, items: int = COUNT) -> Learner:
    made = make_items(items)
    if first == 0:
        learner.list_items(made)
    for batch in batches(make_sequences(made[:80], 1200))[first:last]:
        learner.learn(batch)
    return learner


def published(learner: Learner, items: ItemSegments | None = None) -> ItemSegments:
    export = learner.export(items)
    learner.mark_published()
    assert export.segment.flaw() is None
    return (
        ItemSegments.of([export.segment]) if items is None else items.with_segment(export.segment)
    )


def places(learner: Learner) -> np.ndarray:
    return learner.export().segment.z_nD


def furthest(learner: Learner, items: ItemSegments) -> float:
    """How far the item furthest from where it was published is, in parts of the RMS norm."""
    z_ND = places(learner)
    away_N = np.linalg.norm(z_ND - items.z(np.arange(len(items))), axis=1)
    return float(away_N.max() / np.sqrt(np.square(z_ND).sum(1).mean()))


def test_the_first_export_says_all_and_one_without_learning_says_nothing(learner: Learner) -> None:
    items = published(learner)
    assert len(items) == COUNT
    again = learner.export(items).segment
    assert [len(x) for x in (again.rows_n, again.event_rows_m, again.near_rows_k)] == [0, 0, 0]


def test_what_is_said_is_where_a_base_would_differ(learner: Learner) -> None:
    items = published(learner)
    learnt(learner, 4, 6)
    items = published(learner, items)
    whole = ItemSegments.of([learner.export().segment])
    rows = np.arange(COUNT)
    assert furthest(learner, items) < 1.2 * SMALL.tolerance
    assert np.array_equal(items.codes_NQ[:, 0], whole.codes_NQ[:, 0])
    assert np.array_equal(items.events_N, whole.events_N)
    assert np.array_equal(items.counts.rows_e, whole.counts.rows_e)
    assert np.array_equal(items.counts.counts_eH, whole.counts.counts_eH)
    ours, theirs = items.slots(rows), whole.slots(rows)
    assert np.array_equal(ours.rows_EM, theirs.rows_EM)
    assert np.array_equal(ours.weights_EMH, theirs.weights_EMH)


def test_small_moves_add_up_until_they_are_said() -> None:
    """Each publication alone is within the tolerance; unseen, ten of them would not be."""
    slow = dataclasses.replace(SMALL, learning_rate=1e-5, table_learning_rate=2e-4, tolerance=0.02)
    learner = learnt(Learner(slow), 0, 1)
    items = published(learner)
    said = []
    for batch in range(1, 15):
        learnt(learner, batch, batch + 1)
        export = learner.export(items)
        said.append(len(export.segment.rows_n))
        items = items.with_segment(export.segment)
        learner.mark_published()
        assert furthest(learner, items) < 1.5 * slow.tolerance
    assert sum(said) > 0 and said[0] < COUNT // 2


def test_new_items_and_new_titles_are_said_at_once(learner: Learner) -> None:
    items = published(learner)
    learner.list_items([Item(5, "a new soap"), dataclasses.replace(make_items(9)[8], title="balm")])
    segment = learner.export(items).segment
    assert segment.rows_n.tolist() == [8, COUNT]
    assert segment.ids_n[-1] == 5


def test_listing_an_item_again_as_it_is_says_nothing(learner: Learner) -> None:
    items = published(learner)
    learner.list_items(make_items(COUNT))
    assert len(learner.export(items).segment.rows_n) == 0


def test_in_a_large_catalogue_the_sweep_reaches_everything_in_turn(
    learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "SWEEP", 100)
    monkeypatch.setattr("model.learning.learner.SWEEP", 100)
    items = published(learner)
    with torch.no_grad():
        learner._sparc.item_tower.no_title_D += 1
        learner._tables.categories.weight_ND.add_(1)  # moves all, and touches none
    turns = []
    for _ in range(3):
        export = learner.export(items)
        turns.append(export.segment.rows_n.tolist())
        items = items.with_segment(export.segment)
        learner.mark_published()
    assert [len(turn) for turn in turns] == [100, 100, 100]
    assert sorted(sum(turns, [])) == list(range(COUNT))
    assert furthest(learner, items) < SMALL.tolerance


def test_a_restored_learner_exports_the_same_changes(learner: Learner) -> None:
    items = published(learner)
    base = learner.state()
    learnt(learner, 4, 5)
    learner.list_items([Item(5, "a new soap")])
    delta = learner.state(whole=False)
    restored = Learner.restore(SMALL, delta._replace(rows=[*base.rows, *delta.rows]))
    for each in (learner, restored):
        learnt(each, 5, 6)
    one, other = learner.export(items), restored.export(items)
    for name, ours, theirs in zip(one.segment._fields, one.segment, other.segment, strict=True):
        assert np.array_equal(ours, theirs), name
    assert all(torch.equal(x, other.tensors[name]) for name, x in one.tensors.items())


def test_what_is_forgotten_is_gone_and_its_rows_are_other_items(learner: Learner) -> None:
    made = make_items(COUNT + 30)
    items = published(learner)
    gone = np.array([one.item_id for one in made[:40]])
    learner.forget_items(gone)
    items = published(learner, items)
    whole = learner.export().model()
    assert (items.rows(gone) == NO_ROW).all() and items.count == COUNT - 40
    assert np.array_equal(items.ids_N, whole.items.ids_N) and len(items) == COUNT
    assert not np.isin(items.slots(items.item_rows).rows_EM, np.arange(40)).any()
    learner.list_items(made[COUNT:])
    learner.learn(batches(make_sequences(made[20:], 1600))[4])  # some are clicked once more
    items = published(learner, items)
    whole = learner.export().model()
    assert np.array_equal(items.ids_N, whole.items.ids_N) and len(items) == COUNT
    rows = items.item_rows
    assert np.abs(items.z(rows) - whole.items.z(rows)).max() < 0.1
    assert np.array_equal(items.events_N, whole.items.events_N)
    assert np.array_equal(items.slots(rows).rows_EM, whole.items.slots(rows).rows_EM)


def test_a_forgotten_item_begins_anew(learner: Learner) -> None:
    item = make_items(1)[0]
    learner.forget_items(np.array([item.item_id]))
    learner.list_items([item])
    fresh = Learner(SMALL)
    fresh.list_items([item])
    (row,) = learner._tables.catalogue.rows(np.array([item.item_id])).tolist()
    tables, new = learner._tables, fresh._tables
    assert row == 0 and torch.equal(tables.ids.weight_ND[0], new.ids.weight_ND[0])
    assert tables.events_N[0] == 0 and not tables.popularity.seen(np.array([0])).any()
    assert (tables.neighbours.slots(np.array([0])).rows_EM == NO_ROW).all()
    assert 0 not in tables.candidates.seen.tolist()
