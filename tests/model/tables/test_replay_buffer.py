from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.histories import NO_ROW, HistoryBatch
from model.tables.cooccurrence import Neighbours
from model.tables.replay_buffer import Examples, ReplayBuffer, concatenate

FORGOTTEN = st.sets(st.integers(0, 200), min_size=1, max_size=30)


def examples(first: int, count: int) -> Examples:
    """Example n has target n, time n, history (n - 1, n - 2) and neighbour 2 n."""
    n = np.arange(first, first + count)
    return Examples(
        n,
        n.astype(np.int64),
        HistoryBatch(np.stack([n - 1, n - 2], 1) % 50, np.stack([n + 3, n + 4], 1)),
        Neighbours(2 * n[:, None], np.stack([n, n], 1)[:, None, :].astype(np.float32) % 64),
    )


def users(first: int, count: int) -> np.ndarray:
    """Example n is of user n % 5."""
    return np.arange(first, first + count) % 5


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_sample_is_made_of_consecutive_examples_as_they_were_added() -> None:
    buffer = ReplayBuffer(100, neighbours=4, half_lives=2)
    for first in range(0, 260, 13):
        buffer.add(examples(first, 13), users(first, 13))
    drawn = buffer.sample(5, 8, 1.0, generator())
    assert drawn is not None and len(buffer) == 100
    runs = drawn.targets_B.reshape(5, 8)
    assert (np.diff(runs, axis=1) == 1).all() and runs.min() >= 160
    want = examples(int(drawn.targets_B[0]), 8)
    assert np.array_equal(drawn.histories.rows_BL[:8], want.histories.rows_BL)
    assert np.array_equal(drawn.histories.times_BL[:8], want.histories.times_BL)
    assert np.array_equal(drawn.neighbours.rows_BK[:8], want.neighbours.rows_BK)
    assert np.array_equal(drawn.neighbours.scores_BKH[:8], want.neighbours.scores_BKH)


def test_too_few_examples_give_nothing() -> None:
    buffer = ReplayBuffer(100, 4, 2)
    buffer.add(examples(0, 7), users(0, 7))
    assert buffer.sample(2, 8, 1.0, generator()) is None
    assert buffer.sample(0, 2, 1.0, generator()) is None


def test_recency_prefers_newer_examples() -> None:
    buffer = ReplayBuffer(1000, 4, 2)
    buffer.add(examples(0, 1000), users(0, 1000))
    even, newer = (buffer.sample(400, 2, r, generator()) for r in (1.0, 3.0))
    assert even is not None and newer is not None
    assert newer.targets_B.mean() > even.targets_B.mean() + 100


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 30), st.booleans()), min_size=1, max_size=9), st.data())
def test_a_loaded_buffer_draws_the_same_and_goes_on_the_same(
    steps: list[tuple[int, bool]], data: st.DataObject
) -> None:
    first = ReplayBuffer(64, 4, 2)
    start = 0
    kept = []
    for number, (size, forgets) in enumerate(steps):
        first.add(examples(start, size), users(start, size))
        start += size
        if forgets:
            first.forget_items(np.array(sorted(data.draw(FORGOTTEN))))
        if number % 2 == 0 or number == len(steps) - 1:
            kept.append(first.changes(whole=not kept))
    second = ReplayBuffer(64, 4, 2)
    for changes in kept:
        second.apply(changes)
    for changes in zip(*(buffer.changes(True).values() for buffer in (first, second)), strict=True):
        assert np.array_equal(*changes)
    for buffer in (first, second):
        buffer.add(examples(start, 9), users(start, 9))
    drawn = [buffer.sample(3, 4, 1.0, generator(1)) for buffer in (first, second)]
    assert drawn[0] is not None and drawn[1] is not None
    for a, b in zip(drawn[0], drawn[1], strict=True):
        for x, y in zip(a, b, strict=True) if isinstance(a, tuple) else [(a, b)]:
            assert np.array_equal(x, y)


def test_what_is_forgotten_is_in_no_example_and_no_history() -> None:
    buffer = ReplayBuffer(40, 4, 2)
    buffer.add(examples(0, 60), users(0, 60))
    buffer.forget_items(np.array([30, 41, 59, 100]))
    drawn = buffer.sample(1, len(buffer), 1.0, generator())
    assert drawn is not None
    assert drawn.targets_B.tolist() == [n for n in range(20, 60) if n not in (30, 41, 59)]
    whole = examples(31, 2).histories  # of these two the second event and the first were item 30
    at = drawn.targets_B.tolist().index(31)
    assert drawn.histories.rows_BL[at].tolist() == [NO_ROW, whole.rows_BL[0, 1]]
    assert drawn.histories.times_BL[at].tolist() == [0, whole.times_BL[0, 1]]
    assert drawn.histories.rows_BL[at + 1].tolist() == [NO_ROW, whole.rows_BL[1, 0]]
    assert drawn.neighbours.rows_BK[drawn.targets_B.tolist().index(50)].tolist() == [NO_ROW]


def test_parts_of_different_widths_are_padded_alike() -> None:
    a, b = examples(0, 2), examples(10, 3)
    wide = b._replace(
        histories=HistoryBatch(
            np.pad(b.histories.rows_BL, ((0, 0), (2, 0)), constant_values=NO_ROW),
            np.pad(b.histories.times_BL, ((0, 0), (2, 0))),
        )
    )
    both = concatenate([a, wide])
    assert both.histories.rows_BL.shape == (5, 4)
    assert (both.histories.rows_BL[:2, :2] == NO_ROW).all()
    assert np.array_equal(both.histories.rows_BL[:2, 2:], a.histories.rows_BL)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 150), st.integers(0, 4), st.integers(0, 3))
def test_a_user_who_is_forgotten_has_no_example_but_the_last(
    size: int, user: int, but: int
) -> None:
    buffer = ReplayBuffer(64, 4, 2)
    buffer.add(examples(0, size), users(0, size))
    held = np.arange(max(0, size - 64), size)
    buffer.forget(user, but)
    mine = held[held % 5 == user]
    kept = set(held[held % 5 != user]) | set(mine[len(mine) - but :] if but else [])
    changes = buffer.changes(whole=True)
    assert set(changes["targets"].tolist()) == kept
    assert all(t % 5 == u for t, u in zip(changes["targets"], changes["users"], strict=True))
    assert len(buffer) == (len(held) if kept else 0)
    again = ReplayBuffer(64, 4, 2)
    again.apply(changes)
    assert again.changes(whole=True)["targets"].tolist() == changes["targets"].tolist()


def test_examples_of_before_users_were_kept_go_with_the_first_who_is_forgotten() -> None:
    former = ReplayBuffer(64, 4, 2)
    former.add(examples(0, 10), users(0, 10))
    changes = former.changes(whole=True)
    del changes["users"]
    buffer = ReplayBuffer(64, 4, 2)
    buffer.apply(changes)
    assert len(buffer) == 10
    buffer.add(examples(10, 3), users(10, 3))
    buffer.forget(4)
    assert buffer.changes(whole=True)["targets"].tolist() == [10, 11, 12]
