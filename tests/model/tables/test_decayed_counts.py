from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from model.tables.decayed_counts import Popularity
from streaming.bounds import DAY_MS

HALF_LIVES = (1.0, 20.0)
EVENTS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 60)), min_size=1, max_size=60).map(
    lambda events: sorted(events, key=lambda e: e[1])
)


def decayed(events: list[tuple[int, int]], row: int, day: float, strictly: bool) -> list[float]:
    return [
        sum(
            2.0 ** (-(day - d) / half)
            for r, d in events
            if r == row and (d < day if strictly else d <= day)
        )
        for half in HALF_LIVES
    ]


def filled(events: list[tuple[int, int]], batch: int = 7, log_size: int = 1000) -> Popularity:
    popularity = Popularity(HALF_LIVES, log_size)
    popularity.grow(5)
    for a in range(0, len(events), batch):
        rows, days = np.array(events[a : a + batch]).T
        popularity.add(rows, days * DAY_MS)
    return popularity


@settings(max_examples=60, deadline=None)
@given(EVENTS, st.integers(0, 61))
def test_counts_before_a_clock_equal_brute_force(events: list[tuple[int, int]], day: int) -> None:
    got = filled(events).before(np.array([day * DAY_MS]), np.arange(5))[0]
    want = [decayed(events, row, day, strictly=True) for row in range(5)]
    assert np.allclose(got, want, rtol=1e-4, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(EVENTS)
def test_current_counts_equal_brute_force(events: list[tuple[int, int]]) -> None:
    day = events[-1][1] + 3
    want = [decayed(events, row, day, strictly=False) for row in range(5)]
    assert np.allclose(filled(events).current(day * DAY_MS), want, rtol=1e-5)


def test_what_is_learnt_later_does_not_change_counts_of_an_earlier_time() -> None:
    early, late = [(0, 1), (1, 2), (0, 3)], [(0, 9), (3, 9)]
    clock, rows = np.array([5 * DAY_MS]), np.arange(5)
    assert np.array_equal(
        filled(early).before(clock, rows), filled(early + late).before(clock, rows)
    )


def test_a_late_event_enters_as_old_as_it_is_and_nothing_overflows() -> None:
    popularity = Popularity((1.0,), 100)
    popularity.grow(1)
    popularity.add(np.array([0, 0]), np.array([5000 * DAY_MS, 4998 * DAY_MS]))
    assert popularity.current(5000 * DAY_MS)[0, 0] == np.float32(1.25)
    popularity.add(np.array([0]), np.array([0]))
    assert np.isfinite(popularity.current(10_000 * DAY_MS)).all()


def test_the_log_is_bounded_and_keeps_the_newest() -> None:
    events = [(day % 5, day) for day in range(500)]
    popularity = filled(events, log_size=100)
    assert len(popularity.changes(whole=True)["keys"]) <= 100
    got = popularity.before(np.array([490 * DAY_MS]), np.arange(5))[0]
    want = [decayed(events, row, 490, strictly=True) for row in range(5)]
    assert np.allclose(got, want, rtol=1e-4)


def test_the_share_of_recent_events_sums_to_one() -> None:
    popularity = filled([(0, 1), (1, 1), (1, 4)])
    counts, total = popularity.latest(np.arange(5), 6 * DAY_MS)
    assert np.isclose(counts.sum(), total)
