"""Reserved places: who gets them, with which probability, and that the rest stays as it was."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from indexer.errors import IndexerError
from indexer.search.code_choice import Queries
from indexer.search.config import RANKED_ONLY, ExplorationConfig, SearchConfig
from indexer.search.exploration import ReservedPlaces
from indexer.search.soft_search import SoftSearch
from model.histories import History
from streaming.bounds import DAY_MS
from tests.indexer.search.test_soft_search import histories_of, lists_of
from tests.indexer.stand_in import StandIn

ITEMS, CODES, K = 240, 8, 20
MODEL = StandIn.make(ITEMS, CODES, seed=3)
LISTS = lists_of(MODEL)
HISTORIES = histories_of(MODEL, 40, 5)
NOW = np.arange(40, dtype=np.int64)


def searched(explore: ExplorationConfig, histories=HISTORIES, now=NOW, k=K, **more):
    search = SoftSearch(MODEL, LISTS, SearchConfig(codes=3, explore=explore), **more)
    return search.search(histories, now, k)


def codes_of(history: History) -> set[int]:
    return set(LISTS.locate(np.array(history.items, np.int64))[0].tolist())


def test_ranked_places_stay_and_reserved_ones_hold_items_of_untouched_codes():
    plain, found = searched(RANKED_ONLY), searched(ExplorationConfig(untouched=0.1))
    np.testing.assert_array_equal(found.items_BK[:, :18], plain.items_BK[:, :18])
    assert (found.propensities_BK[:, :18] == 1).all()
    assert (found.propensities_BK[:, 18:] < 1).all()
    assert (np.diff(found.scores_BK, axis=1) <= 0).all()
    for b, history in enumerate(HISTORIES):
        answer = found.items_BK[b].tolist()
        assert len(set(answer)) == K
        assert not set(answer) & set(history.items)
        drawn = LISTS.locate(found.items_BK[b, 18:])[0].tolist()
        assert drawn == found.item_codes_BK[b, 18:].tolist()
        assert not set(drawn) & codes_of(history)
        in_searched = np.isin(found.item_codes_BK[b], found.searched_BS[b]).sum()
        assert found.quota_BS[b].sum() == in_searched


def test_the_same_question_has_the_same_answer_whoever_else_asks():
    explore = ExplorationConfig(untouched=0.1)
    together = searched(explore)
    alone = searched(explore, HISTORIES[7:8], NOW[7:8])
    np.testing.assert_array_equal(alone.items_BK[0], together.items_BK[7])
    np.testing.assert_array_equal(alone.propensities_BK[0], together.propensities_BK[7])
    later = searched(explore, now=NOW + 1)
    assert not np.array_equal(later.items_BK[:, 18:], together.items_BK[:, 18:])


def test_draws_come_as_often_as_their_propensity_says():
    history, times = HISTORIES[0], np.arange(20_000, dtype=np.int64)
    log_p_C = MODEL.log_interests(MODEL.encode([history], times[:1]))
    reserve = ReservedPlaces(LISTS, ExplorationConfig(untouched=0.5))
    taken = np.arange(0, ITEMS, 3)
    queries = Queries([history] * len(times), times, 2, 1, [()] * len(times))
    drawn = reserve.draw(queries, np.repeat(log_p_C, len(times), 0), [taken] * len(times))
    positions, propensities = drawn.positions_BR[:, 0], drawn.propensities_BR[:, 0]
    assert not set(positions.tolist()) & set(taken.tolist())
    said = dict(zip(positions.tolist(), propensities.tolist(), strict=True))
    assert sum(said.values()) == pytest.approx(1, abs=0.01)
    for position, count in Counter(positions.tolist()).items():
        expected = said[position] * len(times)
        assert abs(count - expected) < 5 * np.sqrt(expected) + 5


def test_young_items_have_places_of_their_own():
    listed = np.zeros(ITEMS, np.int64)
    young = np.arange(0, ITEMS, 10)
    listed[young] = 95 * DAY_MS
    config = ExplorationConfig(untouched=0.0, young=0.2, young_days=10)
    reserve = ReservedPlaces(LISTS, config, listed, clock=lambda: 100 * DAY_MS / 1000)
    log_p_BC = MODEL.log_interests(MODEL.encode(HISTORIES, NOW))
    queries, taken = Queries(HISTORIES, NOW, K, 1, [()] * 40), [young[:4]] * 40
    drawn = reserve.draw(queries, log_p_BC, taken)
    assert drawn.positions_BR.shape == (40, 4)
    assert set(drawn.positions_BR.ravel().tolist()) <= set(young[4:].tolist())
    assert all(len(set(row)) == 4 for row in drawn.positions_BR.tolist())
    too_late = ReservedPlaces(LISTS, config, listed, clock=lambda: 106 * DAY_MS / 1000)
    assert (too_late.draw(queries, log_p_BC, taken).positions_BR == -1).all()
    nobody = ReservedPlaces(LISTS, config)
    assert (nobody.draw(queries, log_p_BC, taken).positions_BR == -1).all()


def test_nothing_eligible_leaves_the_ranking_as_it_is():
    everywhere = History([int(one.item_ids[0]) for one in LISTS.lists], [0] * CODES)
    plain = searched(RANKED_ONLY, [everywhere], NOW[:1])
    found = searched(ExplorationConfig(untouched=0.1), [everywhere], NOW[:1])
    np.testing.assert_array_equal(found.items_BK, plain.items_BK)
    assert (found.propensities_BK == 1).all()
    short = searched(ExplorationConfig(untouched=0.5), HISTORIES[:2], NOW[:2], k=ITEMS + 5)
    assert (short.propensities_BK == 1).all()
    assert (np.sort(short.items_BK[0])[-(ITEMS - len(HISTORIES[0].items)) :] >= 0).all()


def test_ranked_items_take_the_places_for_which_nothing_was_drawn():
    explore = ExplorationConfig(untouched=0.1, young=0.1)
    plain, found = searched(RANKED_ONLY), searched(explore)  # nobody says when items were listed
    assert ((found.propensities_BK < 1).sum(axis=1) == 2).all()
    assert (np.diff(found.scores_BK, axis=1) <= 0).all()
    for b in range(len(HISTORIES)):
        drawn = set(found.items_BK[b, 18:].tolist())
        ranked = [item for item in plain.items_BK[b].tolist() if item not in drawn]
        assert found.items_BK[b, :18].tolist() == ranked[:18]


def test_everything_may_be_reserved():
    found = searched(ExplorationConfig(untouched=1.0), [History([], [])] * 9, NOW[:9])
    assert (found.propensities_BK < 1).all()
    assert np.isfinite(found.scores_BK).all()


@pytest.mark.parametrize(
    "wrong", [{"untouched": -0.1}, {"untouched": 0.7, "young": 0.4}, {"young_days": 0.0}]
)
def test_shares_that_make_no_sense_are_refused(wrong):
    with pytest.raises(IndexerError, match="explore"):
        replace(ExplorationConfig(), **wrong)
