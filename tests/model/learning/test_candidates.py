from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from model.histories import NO_ROW
from model.learning.candidates import UNSEEN, CandidateSample
from model.learning.item_tables import ItemTables
from model.learning.learner import Learner
from streaming.events import UserSequence
from streaming.items import Item
from tests.model.learning.test_learner import SMALL
from tests.model.synthetic_stream import make_items, make_sequences

SIZE, SEEN, MOST = 100_000, 20_000, 1000
IDS = np.arange(SIZE)
GIVEN = np.array([17, 99_999])


def sample_of(seen: np.ndarray) -> CandidateSample:
    sample = CandidateSample(MOST)
    sample.see(seen)
    return sample


def test_a_catalogue_no_larger_than_the_sample_is_taken_whole() -> None:
    drawn = sample_of(np.arange(5)).draw(IDS[:MOST], GIVEN[:1], MOST, torch.Generator())
    assert drawn.rows_S.tolist() == list(range(MOST)) and drawn[1:] == (1, 0)


def test_negatives_have_had_an_event_and_some_without_stand_for_all_others() -> None:
    seen = np.arange(0, SIZE, SIZE // SEEN)
    sample, random = sample_of(seen), torch.Generator().manual_seed(0)
    rows, share, unseen_share = sample.draw(IDS, GIVEN, MOST, random)
    assert abs(unseen_share - UNSEEN / SIZE) < 0.002
    assert set(GIVEN) <= set(rows.tolist()) and (np.diff(rows) > 0).all()
    negatives = np.intersect1d(rows, seen)
    assert 0.95 * MOST < len(negatives) <= MOST + 2
    assert abs(share - MOST / SEEN) < 0.002
    assert 0 < len(rows) - len(negatives) <= UNSEEN


def test_few_items_with_events_are_all_candidates() -> None:
    seen = np.array([5, 70_000, 3])
    rows, share, _ = sample_of(seen).draw(IDS, GIVEN, MOST, torch.Generator())
    assert set(seen) <= set(rows.tolist()) and share == 1


def test_the_sample_changes_slowly_and_in_time_holds_everything_alike() -> None:
    sample, random = sample_of(np.arange(SEEN)), torch.Generator().manual_seed(0)
    draws = [
        rows[rows < SEEN]
        for rows in (sample.draw(IDS, np.empty(0, int), MOST, random)[0] for _ in range(400))
    ]
    kept = [np.isin(a, b).mean() for a, b in zip(draws, draws[1:], strict=False)]
    assert 0.87 < np.mean(kept) < 0.93
    assert np.isin(draws[0], draws[10]).mean() < 0.1
    assert len(np.unique(np.concatenate(draws[:40]))) < 5 * MOST
    times = np.bincount(np.concatenate(draws), minlength=SEEN)
    assert abs(times.mean() - 400 * MOST / SEEN) < 1
    assert (times > 0).mean() > 0.8


def test_who_catches_up_takes_what_was_drawn_last() -> None:
    sample, random = sample_of(np.arange(SEEN)), torch.Generator().manual_seed(0)
    before = sample.draw(IDS, np.empty(0, int), MOST, random)[0]
    rows, share, _ = sample.draw(IDS, np.empty(0, int), 250, random)
    fewer = rows[rows < SEEN]
    assert 230 < len(fewer) <= 250 and abs(share - 250 / SEEN) < 0.001
    assert 0.8 < np.isin(fewer, before).mean() < 1


def test_a_restored_sample_goes_on_alike_also_from_a_base_and_changes() -> None:
    sample, random = sample_of(np.arange(0, SEEN, 2)), torch.Generator().manual_seed(0)
    sample.draw(IDS, GIVEN, MOST, random)
    base = sample.changes(whole=True)
    sample.see(np.array([3, 4, 9, 3]))
    sample.draw(IDS, GIVEN, MOST, random)
    delta = sample.changes(whole=False)
    assert delta["seen"].tolist() == [3, 9]
    restored, other = CandidateSample(MOST), torch.Generator()
    for changes in (base, delta):
        restored.apply(changes)
    other.set_state(random.get_state())
    for each in (sample, restored):
        each.see(np.array([11]))
    one, two = sample.draw(IDS, GIVEN, MOST, random), restored.draw(IDS, GIVEN, MOST, other)
    assert np.array_equal(one[0], two[0]) and one[1] == two[1]


def test_positions_are_found_among_any_rows() -> None:
    tables = ItemTables(SMALL.model, 0, 10, 10, torch.device("cpu"))
    tables.list_items(make_items(9))
    asked = np.array([[3, NO_ROW, 8], [1, 7, 0]])
    for rows in (np.array([0, 3, 7]), np.array([8])):
        (found,) = tables.positions(rows, asked)
        where = {int(row): place for place, row in enumerate(rows)}
        assert found.tolist() == [[where.get(r, NO_ROW) for r in row] for row in asked.tolist()]


def test_what_a_step_moves_are_items_with_events() -> None:
    """The thousands that are listed and never clicked keep the id part that they began with."""
    items = make_items(2000)
    learner = Learner(dataclasses.replace(SMALL, candidates=100))
    learner.list_items(items)
    before = ids_of(learner)
    clicked: set[int] = set()
    for batch in some_batches(items):
        learner.learn(batch)
        clicked |= {s.target for s in batch}
    moved = {i.item_id for i, m in zip(items, (ids_of(learner) != before).any(1), strict=True) if m}
    assert moved and moved <= clicked


def some_batches(items: list[Item]) -> list[list[UserSequence]]:
    sequences = make_sequences(items[:400], 600)
    return [sequences[a : a + 64] for a in range(0, 600, 64)]


def ids_of(learner: Learner) -> np.ndarray:
    return learner._tables.ids.weight_ND.numpy().copy()


@pytest.mark.parametrize("unclicked", [0, 1, 40])
def test_a_large_catalogue_of_which_nearly_all_is_clicked_is_learnt(unclicked: int) -> None:
    """Few or none without events are drawn then: they alone make no codebook."""
    learner = Learner(dataclasses.replace(SMALL, candidates=50))
    items = make_items(120)
    clicked = items[: len(items) - unclicked]
    learner.list_items(items)
    sequences = [
        UserSequence(str(n), n, 10**9 + n, 1, [], [], item.item_id)
        for n, item in enumerate(clicked)
    ]
    for _ in range(4):
        losses = learner.learn(sequences)
    assert np.isfinite(list(losses.values())).all()
    assert learner.codebook_health()["codes_in_use"] > 0.5


def test_a_sample_of_another_length_begins_anew() -> None:
    sample, random = sample_of(np.arange(SEEN)), torch.Generator().manual_seed(0)
    sample.draw(IDS, GIVEN, MOST, random)
    for most in (MOST // 2, 2 * MOST):
        other = CandidateSample(most)
        other.apply(sample.changes(whole=True))
        for _ in range(15):
            drawn = other.draw(IDS, GIVEN, most, random)
        assert most * 0.9 < (drawn.rows_S < SEEN).sum() <= most + 1


def test_a_sample_may_name_a_forgotten_row_behind_all_that_are_seen_after_a_restart() -> None:
    sample, random = sample_of(np.arange(2000, SEEN)), torch.Generator().manual_seed(0)
    sample.draw(IDS, GIVEN, MOST, random)
    sample.forget(np.arange(4000, SEEN))
    again = CandidateSample(MOST)
    again.apply(sample.changes(whole=True))
    drawn = again.draw(IDS, GIVEN, MOST, torch.Generator().manual_seed(1))
    expected = sample.draw(IDS, GIVEN, MOST, torch.Generator().manual_seed(1))
    assert np.array_equal(drawn.rows_S, expected.rows_S)
