"""What is said of a codebook that moves: how far, why lists are rebuilt, and that numbers stay."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.building import rebuild as rules
from indexer.building.build import geometry_of
from indexer.building.codebook_health import Health
from indexer.building.drift import Drift, Geometry, continued, measure_drift, shared_traffic
from indexer.building.rebuild import rebuild
from indexer.indexing.config import IndexerConfig
from indexer.lists.code_lists import CodeLists
from indexer.snapshots.snapshot_reading import load_served
from tests.deploy.snapshot_maker import clicks, items, small_learner
from tests.indexer.driving import announce, catch_up, items_of, running
from tests.indexer.stand_in import StandIn

C, D, N = 6, 3, 90


@settings(deadline=None)
@given(st.integers(0, 1000))
def test_a_codebook_that_was_only_renumbered_has_not_drifted(seed):
    rng = np.random.default_rng(seed)
    centroids_CD = rng.normal(size=(C, D)).astype(np.float32)
    codes_N = np.arange(N) % C
    items_ND = centroids_CD[codes_N] + 0.1 * rng.normal(size=(N, D)).astype(np.float32)
    old = Geometry.measure(centroids_CD, items_ND, codes_N)
    number_C = rng.permutation(C)  # old code -> its new number
    shared_CC = shared_traffic(codes_N, number_C[codes_N], np.ones(N), C)
    drift = measure_drift(old, centroids_CD[np.argsort(number_C)], shared_CC)
    assert drift.drift_C.max() < 1e-6
    assert drift.renumbered == (number_C != np.arange(C)).sum()
    assert drift.weight_C.tolist() == pytest.approx([1 / C] * C)


def test_movement_and_renumbering_are_told_apart():
    old = Geometry(np.array([[0.0], [10.0], [20.0]], np.float32), np.ones(3, np.float32))
    before, after = np.array([0] * 9 + [1] * 9 + [2] * 9), np.array([1] * 9 + [0] * 9 + [2] * 9)
    moved = np.array([[10.5], [0.0], [20.0]], np.float32)
    drift = measure_drift(old, moved, shared_traffic(before, after, np.ones(27), 3))
    assert drift.renumbered == 2 and drift.movement_C.tolist() == [0.5, 0, 0]
    assert drift.churn_C.tolist() == [0, 0, 0]


def test_a_code_without_items_keeps_its_number():
    nobody = np.empty(0, np.int64)
    none_CC = shared_traffic(nobody, nobody, np.empty(0), 4)
    assert continued(none_CC).tolist() == [0, 1, 2, 3]
    one_left = shared_traffic(np.array([0, 0, 1]), np.array([0, 0, 0]), np.ones(3), 4)
    assert continued(one_left).tolist() == [0, 1, 2, 3]


@given(st.integers(0, 1000))
def test_items_that_keep_their_code_may_be_told_by_their_sum(seed):
    rng = np.random.default_rng(seed)
    old_N, new_N = rng.integers(0, C, (2, N))
    traffic_N = rng.random(N)
    stay = old_N == new_N
    staying_C = np.bincount(old_N[stay], traffic_N[stay], C)
    told = shared_traffic(old_N[~stay], new_N[~stay], traffic_N[~stay], C, staying_C)
    assert np.allclose(told, shared_traffic(old_N, new_N, traffic_N, C))


def test_the_learner_keeps_the_numbers_of_its_codes():
    learner = small_learner()
    learner.list_items(items())
    geometry, codes_N, renumbered, moved = None, None, [], []
    for step in range(8):
        learner.learn(clicks()[step * 15 : step * 15 + 15])
        model = learner.retrieval_model()
        now_N = model.codes_NQ[:, 0].astype(np.int64)
        if geometry is not None:
            shared_CC = shared_traffic(codes_N, now_N, np.ones(len(now_N)), 8)
            drift = measure_drift(geometry, model.centroids_CD, shared_CC)
            renumbered.append(drift.renumbered)
            moved.append(float(drift.movement_C.max()))
        geometry = geometry_of(model)
        codes_N = now_N
    assert min(moved) > 0
    # only a starved code that is put elsewhere may seem to continue another
    revived = learner.codebook_health()["revived"]
    assert sum(renumbered) <= 2 * revived


def test_a_flood_of_drift_writes_the_most_drifted_by_traffic_and_shares_the_rest(monkeypatch):
    rng = np.random.default_rng(0)
    ids, codes = np.arange(N), np.arange(N) % C
    vectors = rng.normal(size=(N, D)).astype(np.float32)
    lists = CodeLists.build(ids, codes[:, None], vectors, C)
    moved = lists.with_items(ids[:12], codes[:12, None], vectors[:12] + 1)
    movement = np.array([0.2, 0.9, 0.3, 0.05, 0.4, 0.9], np.float32)
    weight = np.array([0.3, 0.01, 0.3, 0.1, 0.2, 0.09], np.float32)
    drift = Drift(movement, np.zeros(C, np.float32), weight)
    monkeypatch.setattr(rules, "MOST_SHARE", 0.5)
    result = rebuild(moved, drift, drift_threshold=0.1, rebuild_rows=45)
    assert result.reasons == {2: ["drift"], 4: ["drift"], 5: ["drift"]}
    assert result.deferred == (0, 1) and result.shared == [0, 1, 3]
    assert np.array_equal(result.lists.vectors_of(ids), moved.vectors_of(ids))


def test_health_says_whether_a_codebook_is_of_use():
    rng = np.random.default_rng(0)
    centroids = 10 * np.eye(4, dtype=np.float32)
    even = np.arange(400) % 4
    counts = np.bincount(even)
    good = Health.measure(centroids, counts, centroids[even] + rng.normal(size=(400, 4)), even)
    assert good.codes_alive == 4 and good.effective_codes == pytest.approx(4)
    assert good.largest_share == 0.25 and good.item_cosine > 0.97 and good.centroid_cosine == 0
    uneven = np.where(np.arange(400) < 388, 0, 1)
    counts = np.bincount(uneven, minlength=4)
    bad = Health.measure(centroids + 50, counts, rng.normal(size=(400, 4)), uneven)
    assert bad.codes_alive == 2 and bad.effective_codes < 1.2 and bad.largest_share == 0.97
    assert abs(bad.item_cosine) < 0.2 and bad.centroid_cosine > 0.9


def test_drift_health_and_the_reason_of_every_rebuild_are_on_record_and_in_the_status(tmp_path):
    model = StandIn.make(120)
    with running(tmp_path, IndexerConfig(rebuild_rows=1)) as indexer:
        announce(indexer, items_of(model))
        model.hand_over(tmp_path, 1)
        catch_up(indexer)
        moved = StandIn(
            model.item_ids_N, 1.1 * model.vectors_ND, model.centroids_CD * np.float32(0.8)
        )
        moved.hand_over(tmp_path, 2)
        catch_up(indexer)
        status = indexer.status()
    facts = load_served(tmp_path, StandIn.load).manifest.facts
    assert facts["moved_items"] > 0 and facts["changes"]["items"] == 120
    assert facts["code_drift"]["summary"]["renumbered"] == 0
    for what in ("movement", "churn", "weight"):
        assert len(facts["code_drift"][what]) == 8
    why = facts["reasons"]
    assert sorted(map(int, why)) == facts["rebuilt_codes"] and all(why.values())
    assert status.rebuild_reasons["drift"] == sum("drift" in some for some in why.values())
    assert status.codebook_health == facts["codebook_health"]
    assert facts["codebook_health"]["codes_alive"] == 8
    assert status.deferred_codes == len(facts.get("deferred_codes", []))
