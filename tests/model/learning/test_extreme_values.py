"""What the parse rule lets through, however strange, is learnt with a finite loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.learning.learner import Learner
from model.tables.decayed_counts import Popularity
from streaming.bounds import DAY_MS
from streaming.events import HISTORY_LENGTH, UserSequence
from streaming.items import Item
from tests.model.training.test_trainer_learner import SMALL

LAST_MS = 253_402_300_799_999
"""The end of the year 9999."""
ITEMS = (0, 1, 2, 3, 2**53 + 1, 2**63 - 1)
USERS = (-(2**63), -1, *ITEMS)
TIMES = st.one_of(
    st.integers(0, LAST_MS),
    st.sampled_from((0, 1, 999, 1000, DAY_MS, 1_400_000_000_000, LAST_MS - 1, LAST_MS)),
)


@st.composite
def sequences(draw: st.DrawFn) -> UserSequence:
    past = draw(st.lists(TIMES, max_size=6)) * draw(st.sampled_from((1, 1, HISTORY_LENGTH // 6)))
    items = st.sampled_from(ITEMS)
    return UserSequence(
        draw(st.sampled_from(("", "0" * 32, "é\ud83d\ude00"))),
        draw(st.sampled_from(USERS)),
        draw(TIMES),
        draw(st.sampled_from((1, 2, 2**63 - 1))),
        [draw(items)] * len(past) if draw(st.booleans()) else [draw(items) for _ in past],
        sorted(past) if draw(st.booleans()) else past,
        draw(items),
    )


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(sequences(), min_size=1, max_size=12), min_size=1, max_size=4))
def test_the_loss_stays_finite(batches: list[list[UserSequence]]) -> None:
    learner = Learner(SMALL)
    learner.list_items([Item(i, "t" * (n % 3), "c" * (n % 2)) for n, i in enumerate(ITEMS[:5])])
    for batch in batches:
        losses = learner.learn(batch, replay=1.0)
        assert np.isfinite(list(losses.values())).all(), losses
    export = learner.export()
    for name, tensor in export.tensors.items():
        if tensor.is_floating_point():
            assert bool(torch.isfinite(tensor).all()), name
    assert export.segment.flaw() is None


@pytest.mark.parametrize("time_ms", [0, 2**34 * 1000 - 1, 2**34 * 1000, LAST_MS])
def test_a_time_of_the_far_future_counts_for_no_other_item(time_ms: int) -> None:
    popularity = Popularity((1.0,), log_size=10)
    popularity.grow(20)
    popularity.add(np.array([1, 1]), np.array([time_ms, time_ms]))
    clocks = np.array([1000, time_ms, time_ms + 1000, LAST_MS])
    before_GN = popularity.before(clocks, np.arange(20))[:, :, 0]
    assert (before_GN[:, np.arange(20) != 1] == 0).all(), before_GN
    assert popularity.current(time_ms)[:, 0].tolist() == [0.0, 2.0, *[0.0] * 18]
