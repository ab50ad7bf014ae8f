from __future__ import annotations

import numpy as np
import pytest

from indexer.building.drift import Drift, Geometry, measure_drift
from indexer.building.rebuild import rebuild
from indexer.lists.code_lists import CodeLists

C, D, N = 4, 3, 40


@pytest.fixture
def version():
    rng = np.random.default_rng(0)
    ids, codes = np.arange(N), np.arange(N) % C
    vectors = rng.normal(size=(N, D)).astype(np.float32)
    codes = np.stack([codes, np.arange(N) % 3], axis=1)
    return ids, codes, vectors, CodeLists.build(ids, codes, vectors, C)


def calm() -> Drift:
    zeros = np.zeros(C, np.float32)
    return Drift(zeros, zeros, np.full(C, 0.25, np.float32))


def again(lists, ids, codes, vectors, drift=None, tolerance=0.01):
    return rebuild(
        lists,
        ids,
        codes,
        vectors,
        C,
        drift or calm(),
        drift_threshold=0.1,
        vector_tolerance=tolerance,
    )


def test_nothing_changed_shares_every_list(version):
    ids, codes, vectors, lists = version
    result = again(lists, ids, codes, vectors)
    assert result.shared == [0, 1, 2, 3]
    assert all(a is b for a, b in zip(result.lists.lists, lists.lists, strict=True))


def test_an_item_that_changed_code_leaves_its_list_and_enters_the_other_without_drift(version):
    ids, codes, vectors, lists = version
    moved = codes.copy()
    moved[0, 0] = 2
    result = again(lists, ids, moved, vectors)
    assert result.reasons == {0: ["membership"], 2: ["membership"]}
    assert 0 not in result.lists.lists[0].item_ids
    assert 0 in result.lists.lists[2].item_ids


def test_a_list_is_shared_only_while_its_vectors_are_within_the_tolerance(version):
    ids, codes, vectors, lists = version
    norm = np.sqrt((vectors**2).sum(axis=1).mean())
    nudged = vectors.copy()
    nudged[1, 0] += 0.005 * norm
    nudged[2, 0] += 0.05 * norm
    result = again(lists, ids, codes, nudged)
    assert result.reasons == {2: ["vectors"]}
    assert result.lists.lists[1] is lists.lists[1]
    np.testing.assert_array_equal(result.lists.vectors_of(np.array([2])), nudged[2:3])


def test_small_steps_do_not_add_up_unseen(version):
    ids, codes, vectors, lists = version
    norm = float(np.sqrt((vectors**2).sum(axis=1).mean()))
    for step in range(1, 5):
        moved = vectors + np.float32(0.004 * norm * step) * np.array([1, 0, 0], np.float32)
        lists = again(lists, ids, codes, moved).lists
        far = np.abs(lists.vectors_of(ids) - moved).max()
        assert far <= 0.0101 * norm


def test_a_drifted_code_is_rebuilt_though_its_vectors_are_equal(version):
    ids, codes, vectors, lists = version
    movement = np.array([0, 0.3, 0, 0], np.float32)
    drift = Drift(movement, np.zeros(C, np.float32), np.full(C, 0.25, np.float32))
    assert again(lists, ids, codes, vectors, drift).reasons == {1: ["drift"]}


def test_a_parent_of_another_shape_shares_nothing(version):
    ids, codes, vectors, lists = version
    wider = np.concatenate([vectors, vectors], axis=1)
    assert again(lists, ids, codes, wider).reasons == {c: ["first"] for c in range(C)}


def test_tolerance_zero_shares_bit_equal_lists_only(version):
    ids, codes, vectors, lists = version
    nudged = vectors.copy()
    nudged[1, 0] = np.nextafter(nudged[1, 0], np.float32(np.inf))
    assert again(lists, ids, codes, nudged, tolerance=0.0).reasons == {1: ["vectors"]}


def test_churn_weighs_items_by_their_traffic():
    old = Geometry(np.zeros((2, 1), np.float32), np.ones(2, np.float32))
    before, after = np.array([0, 0, 1]), np.array([0, 1, 1])
    drift = measure_drift(old, old.centroids_CD, before, after, np.array([1.0, 9.0, 10.0]))
    np.testing.assert_allclose(drift.churn_C, [0.9, 9 / 19], rtol=1e-6)
    np.testing.assert_allclose(drift.weight_C, [10 / 29, 19 / 29], rtol=1e-6)


def test_movement_is_relative_to_the_radius_and_safe_for_codes_without_one():
    items = np.array([[0.0], [2.0], [5.0]], np.float32)
    geometry = Geometry.measure(
        np.array([[1.0], [5.0], [9.0]], np.float32), items, np.array([0, 0, 1])
    )
    np.testing.assert_allclose(geometry.radii_C, [1, 0, 0])
    moved = np.array([[1.5], [5.0], [9.5]], np.float32)
    nobody = np.empty(0, np.int64)
    drift = measure_drift(geometry, moved, nobody, nobody, np.empty(0))
    np.testing.assert_allclose(drift.movement_C, [0.5, 0, 0.5])
    assert drift.summary(0.1)["over_threshold"] == 2
