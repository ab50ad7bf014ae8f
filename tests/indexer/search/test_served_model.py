"""The indexer with the real model: learner -> handover -> snapshot -> soft search."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from indexer.indexing.config import IndexerConfig
from indexer.indexing.indexer import Indexer
from indexer.indexing.item_store import ItemStore
from indexer.indexing.listing import Announced
from indexer.lists.code_lists import CodeLists
from indexer.search.config import RANKED_ONLY, SearchConfig
from indexer.search.soft_search import SoftSearch
from indexer.snapshots.snapshot import Snapshot
from indexer.snapshots.snapshot_reading import load_served
from model.artifacts.handover_facts import HandoverFacts
from model.histories import History
from model.learning.config import LearnerConfig
from model.learning.learner import Learner
from model.network.quantizer import QuantizerConfig
from model.retrieval.retrieval_model import RetrievalModel
from model.training.handover import HandoverDirectory
from streaming.events import UserSequence
from streaming.items import Item
from tests.model.dense_search import every_score

DAY = 86_400_000


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory) -> tuple[Path, list[Snapshot]]:
    """Two versions, between which the model learnt, and an item listed after the second."""
    data_dir = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    items = [Item(i, f"thing {i % 7} of kind {i % 11}", str(i % 5), "", i) for i in range(1, 301)]
    learner = Learner(LearnerConfig())
    learner.list_items(items)
    store = ItemStore(data_dir / "indexer" / "rocksdb")
    indexer = Indexer(IndexerConfig(), store, data_dir, lambda: 1)
    indexer.recover()
    records = [Announced(0, n, item.to_bytes()) for n, item in enumerate(items)]
    indexer.listen(records, {0: 300})
    versions = []
    for number in (1, 2):
        learner.learn(
            [
                UserSequence(
                    str(n),
                    n,
                    DAY * number + n,
                    3,
                    rng.integers(1, 300, 2).tolist(),
                    [DAY - 5, DAY],
                    int(rng.integers(1, 300)),
                )
                for n in range(256)
            ]
        )
        export = learner.export()
        facts = HandoverFacts(model=export.facts, offsets={"items": {"0": 300}})
        HandoverDirectory(data_dir / "handover", 3, RetrievalModel.load).publish(
            number, export, facts
        )
        indexer.index_handover(number)
        versions.append(load_served(data_dir))
    indexer.listen([Announced(0, 300, Item(777, "thing 3 of kind 4", "2").to_bytes())], {0: 301})
    indexer.append_waiting()
    store.close()
    return data_dir, versions


HISTORIES = [History([3, 8, 12], [DAY, DAY + 1, DAY + 2]), History([], []), History([299], [DAY])]
NOW = np.full(3, 3 * DAY)


def test_all_codes_searched_is_the_exhaustive_ranking_of_the_model(snapshots):
    snapshot = snapshots[1][1]
    model, C = snapshot.model, snapshot.model.first_level_codes
    answers = SoftSearch(model, snapshot.lists, SearchConfig(explore=RANKED_ONLY)).search(
        HISTORIES, NOW, 300, codes=C, exclude=False
    )
    s_BN = every_score(model, HISTORIES, int(NOW[0]))
    np.testing.assert_allclose(answers.scores_BK, -np.sort(-s_BN, axis=1), atol=1e-3)


def test_the_loaded_snapshot_holds_what_the_handover_learnt(snapshots):
    for version, snapshot in enumerate(snapshots[1], start=1):
        assert snapshot.version == version and len(snapshot.lists) == 300
        ids = snapshot.model.item_ids_N
        vectors = snapshot.lists.vectors_of(ids)
        np.testing.assert_allclose(vectors, snapshot.model.vectors_ND, rtol=1e-2, atol=1e-2)
        assert snapshot.manifest.facts["codes_in_use"] > 1
    assert snapshots[1][1].manifest.facts["code_drift"]["summary"]["mean"] > 0


def test_an_item_that_the_model_never_saw_is_retrievable(snapshots):
    served = load_served(snapshots[0])
    assert served.version == 2 and len(served.lists) == 301
    answers = SoftSearch(served.model, served.lists).search(HISTORIES, NOW, 301, codes=10_000)
    assert (answers.items_BK == 777).any(axis=1).all()


@pytest.mark.parametrize("hot", [0, 7, 300])
def test_evidence_is_ranked_beside_the_searched_lists(snapshots, hot):
    """Brute force over the lists of two codes, the hot items and the neighbours."""
    snapshot = snapshots[1][1]
    model, lists = snapshot.model, snapshot.lists
    search = SoftSearch(model, lists, SearchConfig(codes=2, evidence=hot))
    answers = search.search(HISTORIES, NOW, 20)
    s_BN = every_score(model, HISTORIES, int(NOW[0]))
    near_BM, adds_BM = model.near(model.encode(HISTORIES, NOW))
    assert (adds_BM > 0).any()
    ids_N = model.item_ids_N
    codes_N, _ = lists.locate(ids_N)
    for b, history in enumerate(HISTORIES):
        searched = answers.searched_BS[b]
        wanted_N = np.isin(codes_N, searched)
        if hot:
            wanted_N |= np.isin(ids_N, model.hot_items(hot))
            wanted_N |= np.isin(ids_N, near_BM[b])
        wanted_N &= ~np.isin(ids_N, history.items)
        scores_N = np.where(wanted_N, s_BN[b], -np.inf)
        best = np.argsort(-scores_N, kind="stable")[:20]
        np.testing.assert_allclose(answers.scores_BK[b], scores_N[best], atol=1e-4)
        assert set(answers.items_BK[b]) == set(ids_N[best])


def test_in_a_list_of_hundreds_of_items_each_has_its_own_neighbours_score_and_prior():
    """Lists of 400 items, which 256 places for neighbours would not have told apart."""
    rng = np.random.default_rng(1)
    items = [Item(i, f"thing {i % 7}", str(i % 3), "", i) for i in range(1, 801)]
    shape = replace(LearnerConfig().model, quantizer=QuantizerConfig(codes=2))
    learner = Learner(replace(LearnerConfig(), model=shape))
    learner.list_items(items)
    for n in range(3):
        learner.learn(
            [
                UserSequence(
                    str(u), n, DAY * n + u, 2, [u + 1], [DAY * n], int(rng.integers(1, 801))
                )
                for u in range(256)
            ]
        )
    model = learner.retrieval_model()
    lists = CodeLists.build(model.item_ids_N, model.codes_NQ, model.vectors_ND, 2)
    assert lists.sizes_C.max() > 300
    histories = [History([u, u + 1], [2 * DAY] * 2) for u in range(1, 40)] + HISTORIES[1:2]
    now = np.full(len(histories), 3 * DAY)
    s_BN = every_score(model, histories, int(now[0]))
    config = SearchConfig(explore=RANKED_ONLY)
    found = SoftSearch(model, lists, config).search(histories, now, 800, exclude=False)
    rows_BK = model.rows(found.items_BK)
    assert (np.sort(rows_BK) == np.arange(800)).all()
    np.testing.assert_allclose(
        found.scores_BK, np.take_along_axis(s_BN, rows_BK, axis=1), rtol=1e-5, atol=1e-5
    )
    alone = SoftSearch(model, lists, config).search(histories[:1], now[:1], 800, exclude=False)
    np.testing.assert_allclose(alone.scores_BK, found.scores_BK[:1], rtol=1e-4, atol=1e-4)


def test_candidates_mark_the_evidence_of_each_query(snapshots):
    snapshot = snapshots[1][1]
    search = SoftSearch(snapshot.model, snapshot.lists, SearchConfig(codes=2, evidence=5))
    (found,) = search.candidates(HISTORIES, NOW)
    near_BM, _ = snapshot.model.near(snapshot.model.encode(HISTORIES, NOW))
    for b in range(len(HISTORIES)):
        marked = set(found.items_BN[b][found.evidence_BN[b]].tolist())
        expected = {*snapshot.model.hot_items(5).tolist(), *near_BM[b].tolist()} - {-1}
        assert marked == expected
