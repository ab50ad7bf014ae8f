from __future__ import annotations

import numpy as np
import pytest

from indexer.building import rebuild as rules
from indexer.building.drift import Drift, Geometry, measure_drift, shared_traffic
from indexer.building.rebuild import rebuild
from indexer.lists.code_lists import CodeLists

C, D, N = 4, 3, 40


@pytest.fixture
def lists() -> CodeLists:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(N, D)).astype(np.float32)
    return CodeLists.build(np.arange(N), (np.arange(N) % C)[:, None], vectors, C)


def moved(lists: CodeLists, *ids: int, code: int | None = None) -> CodeLists:
    """Some items with other vectors, in their list or another."""
    of = np.array([i % C if code is None else code for i in ids])
    return lists.with_items(np.array(ids), of[:, None], np.ones((len(ids), D), np.float32))


def drift(*movement: float) -> Drift:
    zeros = np.zeros(C, np.float32)
    return Drift(np.array(movement or zeros, np.float32), zeros, np.full(C, 0.25, np.float32))


def chosen(lists: CodeLists, how: Drift | None = None) -> dict[int, list[str]]:
    return rebuild(lists, how or drift(), drift_threshold=0.1).reasons


def test_nothing_changed_shares_every_list(lists):
    result = rebuild(lists, drift(), drift_threshold=0.1)
    assert result.shared == [0, 1, 2, 3] and result.lists is lists


def test_what_moved_lies_in_tails_while_the_codebook_is_calm(lists):
    grown = moved(lists, 0, 4, 8, code=2)
    assert chosen(grown) == {}
    assert 0 not in grown.lists[0].present_ids and 0 in grown.lists[2].present_ids


def test_a_list_whose_code_drifted_is_written_with_what_has_changed_in_it(lists):
    result = rebuild(moved(lists, 1, 2), drift(0, 0.3, 0, 0), drift_threshold=0.1)
    assert result.reasons == {1: ["drift"]}
    assert result.lists.lists[1].changes == 0 and result.lists.lists[2].changes == 2
    assert np.array_equal(result.lists.vectors_of(np.array([1, 2])), np.ones((2, D)))


def test_a_list_in_which_nothing_changed_is_the_same_file_however_its_code_drifted(lists):
    assert chosen(moved(lists, 1), drift(0.3, 0.3, 0.3, 0.3)) == {1: ["drift"]}


def test_a_list_of_which_a_large_part_has_changed_is_written(lists, monkeypatch):
    monkeypatch.setattr(rules, "FEW", 2)
    five = [4 * i for i in range(5)]
    assert chosen(moved(lists, *five)) == {}  # half of its ten rows
    assert chosen(moved(lists, *five, 20)) == {0: ["changes"]}
    assert chosen(moved(lists, *five, 20), drift(0.3, 0, 0, 0)) == {0: ["changes", "drift"]}
    assert chosen(lists.without(np.array([*five, 20]))) == {0: ["changes"]}


def test_a_few_changes_are_no_reason_in_a_short_list(lists):
    assert chosen(moved(lists, *range(N))) == {}


def test_a_version_writes_as_many_rows_as_it_may_however_many_lists_are_due(lists, monkeypatch):
    monkeypatch.setattr(rules, "FEW", 2)
    monkeypatch.setattr(rules, "MOST_SHARE", 1.0)
    grown = moved(lists, *range(0, 24, 4), *range(1, 32, 4), 2, 3)  # 6, 8, 1, 1 of ten rows each
    how = drift(0.3, 0, 0.4, 0.9)
    all_due = rebuild(grown, how, drift_threshold=0.1, rebuild_rows=40)
    assert list(all_due.reasons) == [0, 1, 2, 3] and all_due.deferred == ()
    some = rebuild(grown, how, drift_threshold=0.1, rebuild_rows=39)
    assert some.reasons == {0: ["changes", "drift"], 1: ["changes"], 3: ["drift"]}
    assert some.deferred == (2,) and some.shared == [2]
    one = rebuild(grown, how, drift_threshold=0.1, rebuild_rows=1)
    assert one.reasons == {1: ["changes"]} and one.deferred == (0, 2, 3)


def test_of_a_small_catalogue_a_quarter_is_written_at_most(lists):
    drifting = drift(0.3, 0.2, 0.4, 0.9)
    result = rebuild(moved(lists, 0, 1, 2, 3), drifting, drift_threshold=0.1, rebuild_rows=1000)
    assert result.reasons == {3: ["drift"]} and result.deferred == (0, 1, 2)


def test_lists_that_have_doubled_never_wait(lists, monkeypatch):
    monkeypatch.setattr(rules, "FEW", 2)
    new = np.arange(100, 133)  # 11 for each of three lists of ten
    grown = lists.with_items(new, (new % 3)[:, None], np.ones((33, D), np.float32))
    result = rebuild(moved(grown, 3), drift(0, 0, 0, 0.9), drift_threshold=0.1, rebuild_rows=1)
    assert result.reasons == dict.fromkeys(range(3), ["changes"]) and result.deferred == (3,)


def test_churn_weighs_items_by_their_traffic():
    old = Geometry(np.zeros((2, 1), np.float32), np.ones(2, np.float32))
    before, after = np.array([0, 0, 1]), np.array([0, 1, 1])
    shared_CC = shared_traffic(before, after, np.array([1.0, 9.0, 10.0]), 2)
    drift = measure_drift(old, old.centroids_CD, shared_CC)
    np.testing.assert_allclose(drift.churn_C, [0.9, 9 / 19], rtol=1e-6)
    np.testing.assert_allclose(drift.weight_C, [10 / 29, 19 / 29], rtol=1e-6)


def test_movement_is_relative_to_the_radius_and_safe_for_codes_without_one():
    items = np.array([[0.0], [2.0], [5.0]], np.float32)
    geometry = Geometry.measure(
        np.array([[1.0], [5.0], [9.0]], np.float32), items, np.array([0, 0, 1])
    )
    np.testing.assert_allclose(geometry.radii_C, [1, 0, 0])
    moved = np.array([[1.5], [5.0], [9.5]], np.float32)
    drift = measure_drift(geometry, moved, np.zeros((3, 3)))
    np.testing.assert_allclose(drift.movement_C, [0.5, 0, 0.5])
    assert drift.summary(0.1)["over_threshold"] == 2
