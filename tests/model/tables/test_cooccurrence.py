from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.histories import NO_ROW, History, pad_histories
from model.tables.cooccurrence import Cooccurrence, CooccurrenceConfig
from streaming.bounds import DAY_MS

CONFIG = CooccurrenceConfig(
    half_lives_days=(2.0, 50.0), slots=32, window=5, answers=64, rank_decay=0.8
)
DIRECTED = replace(CONFIG, gap_decay=0.7, backward=0.25, source_power=0.3)
STREAM = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=2, max_size=60
)  # (user, item), one a day


def brute_force(
    config: CooccurrenceConfig, stream: list[tuple[int, int]], history: list[int], day: int
) -> dict[int, np.ndarray]:
    pairs: list[tuple[int, int, int, float]] = []
    past: dict[int, list[int]] = {}
    for time, (user, item) in enumerate(stream):
        for gap, other in enumerate(past.get(user, [])[-config.window :][::-1]):
            if other != item:
                near = config.gap_decay**gap
                pairs += [(other, item, time, near), (item, other, time, config.backward * near)]
        past.setdefault(user, []).append(item)
    scores: dict[int, np.ndarray] = {}
    for place, event in enumerate(reversed(history[-config.window :])):
        links = [
            (b, share * np.exp2(-(day - time) / np.array(config.half_lives_days)))
            for a, b, time, share in pairs
            if a == event
        ]
        total = sum((decay for _, decay in links), np.zeros(2))
        for b, decay in links:
            if b not in history[-config.window :]:
                gain = config.rank_decay**place * decay / (1 + total) ** config.source_power
                scores[b] = scores.get(b, np.zeros(2)) + gain
    return scores


@pytest.mark.parametrize("config", [CONFIG, DIRECTED], ids=["alike", "directed"])
@settings(max_examples=60, deadline=None)
@given(
    stream=STREAM,
    batch=st.integers(1, 9),
    history=st.lists(st.integers(0, 9), min_size=1, max_size=8, unique=True),
)
def test_neighbours_equal_brute_force_when_every_neighbour_has_a_slot(
    config: CooccurrenceConfig, stream: list[tuple[int, int]], batch: int, history: list[int]
) -> None:
    memory = Cooccurrence(config)
    memory.grow(10)
    past: dict[int, list[int]] = {}
    for a in range(0, len(stream), batch):
        some = stream[a : a + batch]
        histories = []
        for user, item in some:
            histories.append(History(list(past.get(user, [])), [0] * len(past.get(user, []))))
            past.setdefault(user, []).append(item)
        memory.add(
            pad_histories(histories, lambda ids: ids),
            np.array([item for _, item in some]),
            np.arange(a, a + len(some)) * DAY_MS,
        )
    query = pad_histories([History(history, [0] * len(history))], lambda ids: ids)
    day = len(stream)
    got = memory.look_up(query, np.array([day * DAY_MS]))
    want = brute_force(config, stream, history, day)
    found = {
        int(row): got.scores_BKH[0, k] for k, row in enumerate(got.rows_BK[0]) if row != NO_ROW
    }
    assert found.keys() == want.keys()
    for row, score in want.items():
        assert np.allclose(found[row], score, rtol=1e-3)


def test_full_slots_keep_the_heavy_neighbours_and_admit_new_ones() -> None:
    memory = Cooccurrence(CooccurrenceConfig(half_lives_days=(100.0,), slots=4))
    memory.grow(40)
    for day in range(6):
        memory.add(pad_histories([History([0], [0])], lambda ids: ids), np.array([1]),
                   np.array([day * DAY_MS]))  # fmt: skip
    for item in range(2, 30):
        memory.add(pad_histories([History([0], [0])], lambda ids: ids), np.array([item]),
                   np.array([6 * DAY_MS]))  # fmt: skip
    query = pad_histories([History([0], [0])], lambda ids: ids)
    answer = memory.look_up(query, np.array([7 * DAY_MS]))
    assert answer.rows_BK[0, 0] == 1
    assert 29 in answer.rows_BK[0]
    assert answer.rows_BK.shape[1] == 4


def test_an_empty_or_unknown_history_has_no_neighbours() -> None:
    memory = Cooccurrence(CONFIG)
    memory.grow(5)
    empty = pad_histories([History([], [])], lambda ids: ids)
    answer = memory.look_up(empty, np.array([0]))
    assert (answer.rows_BK == NO_ROW).all()
