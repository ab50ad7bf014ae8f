from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.evaluation.protocol import Queries, canonical_order
from model.histories import History
from model.peers import neighbours, popularity
from model.peers.decay import DecayedCounts
from model.peers.exclusion import best
from streaming.bounds import DAY_MS
from tests.model.evaluation.made_up_log import make_items

ITEMS = make_items()


def log_of(*events: tuple[int, int, int]):
    """Events of (user, item, day)."""
    users_E, items_E, days_E = np.array(events).T
    return canonical_order(users_E, items_E, days_E * 86_400)


def ask(model, day: int, *items: int) -> list[int]:
    history = History(list(items), [(day - 1) * DAY_MS] * len(items))
    return model.answer(Queries(day, np.array([99]), [history])).items_BK[0].tolist()


def test_counts_of_a_long_and_eager_log_neither_overflow_nor_vanish():
    counts = DecayedCounts(items=2, half_life=1.0)
    for day in range(0, 40_000, 100):
        counts.add(np.array([0, 1, 1]), day)
    assert counts.at(39_900) == pytest.approx([1.0, 2.0])


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 60)), min_size=1, max_size=20))
def test_counts_equal_the_sum_of_faded_events(events):
    events.sort(key=lambda e: e[1])
    counts = DecayedCounts(items=4, half_life=7.0)
    rows_E, days_E = np.array(events).T
    counts.add_all(rows_E, days_E)
    wanted = [sum(2.0 ** ((d - 61) / 7.0) for r, d in events if r == row) for row in range(4)]
    assert counts.at(61) == pytest.approx(wanted)


@given(
    st.lists(st.integers(0, 5), min_size=60, max_size=60), st.sets(st.integers(0, 59), max_size=9)
)
def test_the_best_items_are_those_of_a_full_sort_with_ties_by_id(scores, excluded):
    ids_N = np.arange(60) * 2
    histories = [History([2 * n for n in excluded], [0] * len(excluded))]
    scores_BN = np.array([scores], dtype=np.float32)
    wanted = sorted(set(range(60)) - excluded, key=lambda n: (-scores[n], n))[:50]
    assert best(ids_N, scores_BN, histories).items_BK[0].tolist() == [2 * n for n in wanted]


def test_new_popularity_outranks_old():
    model = popularity.Popularity(ITEMS, popularity.PopularityConfig(half_life=7.0))
    model.warm_up(log_of((1, 30, 100), (2, 30, 100), (3, 30, 100), (4, 60, 121)))
    assert ask(model, 122)[:2] == [60, 30]  # 3 * 2 ** -3 < 1


def test_neighbours_of_the_newest_items_come_first():
    model = neighbours.Neighbours(ITEMS, neighbours.NeighboursConfig())
    pairs = [(user, item, 100 + n) for user in (1, 2, 3) for n, item in enumerate((30, 60))]
    others = [(user, item, 100 + n) for user in (4, 5, 6) for n, item in enumerate((90, 120))]
    model.warm_up(log_of(*pairs, *others))
    assert ask(model, 105, 30)[0] == 60
    assert ask(model, 105, 90)[0] == 120


def test_a_link_made_today_is_served_tomorrow():
    model = neighbours.Neighbours(ITEMS, neighbours.NeighboursConfig())
    model.warm_up(log_of((1, 30, 100), (1, 60, 101)))
    assert ask(model, 111, 30)[0] == 60
    model.learn(log_of((1, 90, 111)))
    model.learn(log_of((2, 30, 112), (2, 90, 112), (3, 30, 112), (3, 90, 112)))
    assert ask(model, 113, 30)[0] == 90
