from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.training.prequential import Prequential
from streaming.events import UserSequence

CATALOGUE = 20


def query(user: int, position: int, target: int) -> UserSequence:
    return UserSequence("", user, 0, position, [1], [0], target)


def expected(
    asked: list[tuple[UserSequence, list[int], set[int], int]], prefix: str
) -> dict[str, float]:
    """Each measure by its definition, over (query, answer, head, events of the target before)."""
    slices = {
        "": asked,
        "long_tail_": [a for a in asked if a[0].target not in a[2]],
        "cold_user_": [a for a in asked if 1 <= a[0].position - 1 <= 4],
        "cold_item_": [a for a in asked if a[3] <= 4],
    }
    found = {}
    for name, some in slices.items():
        for k in (20, 50):
            ranks = [a[1].index(a[0].target) + 1 if a[0].target in a[1][:k] else 0 for a in some]
            if some:
                found[f"{prefix}{name}recall_at_{k}"] = sum(r > 0 for r in ranks) / len(some)
                gains = [1 / math.log2(r + 1) if r else 0.0 for r in ranks]
                found[f"{prefix}{name}ndcg_at_{k}"] = sum(gains) / len(some)
    if asked:
        shown = {i for _, items, _, _ in asked for i in items if i > 0}
        found[f"{prefix}coverage_at_50"] = len(shown) / CATALOGUE
    return found


def again(window: int, kept: list[dict[str, np.ndarray]], before: Prequential) -> Prequential:
    """After a restart."""
    prequential = Prequential(window)
    for changes in kept:
        prequential.apply(changes)
    prequential.load(before.figures())
    return prequential


batches = st.lists(
    st.tuples(
        st.lists(
            st.tuples(
                st.integers(2, 8),
                st.integers(1, CATALOGUE),
                st.lists(st.integers(1, CATALOGUE), unique=True, max_size=CATALOGUE),
            ),
            min_size=1,
            max_size=4,
        ),
        st.booleans(),
    ),
    max_size=10,
)


@settings(max_examples=60, deadline=None)
@given(batches, st.integers(0, 10))
def test_metrics_follow_their_definitions_also_across_a_checkpoint(
    batches: list[tuple[list[tuple[int, int, list[int]]], bool]], restart: int
) -> None:
    window = 7
    prequential = Prequential(window)
    prequential.list_items(range(1, CATALOGUE + 1))
    events = dict.fromkeys(range(1, CATALOGUE + 1), 0)
    head: set[int] = set()
    asked: list[tuple[UserSequence, list[int], set[int], int]] = []
    kept: list[dict[str, np.ndarray]] = []
    dice = random.Random(restart)
    for number, (batch, fix) in enumerate(batches):
        if number == restart:
            prequential = again(window, [*kept, prequential.changes(whole=not kept)], prequential)
        elif number < restart and dice.random() < 0.5:
            changed = prequential.changes(whole=not kept)
            kept.append({name: array.copy() for name, array in changed.items()})
        if fix:
            prequential.fix_head()
            head = set(sorted(events, key=lambda i: (-events[i], i))[: CATALOGUE // 5])
        sequences = [query(0, position, target) for position, target, _ in batch]
        answers = np.full((len(batch), 50), -1, np.int64)
        for row, (_, _, items) in zip(answers, batch, strict=True):
            row[: len(items)] = items
        prequential.judge(sequences, answers)
        asked += [
            (s, items, set(head), events[s.target])
            for s, (_, _, items) in zip(sequences, batch, strict=True)
        ]
        prequential.learn(sequences)
        for s in sequences:
            events[s.target] += 1
    found = prequential.metrics()
    assert found.pop("queries") == len(asked)
    recent = found.pop("window_coverage_at_50", None)
    wanted = expected(asked, "") | expected(asked[-window:], "window_")
    wanted.pop("window_coverage_at_50", None)
    assert found == pytest.approx(wanted)
    if asked:  # to the end of a batch, so at least what the window itself has shown
        assert recent is not None
        assert recent >= expected(asked[-window:], "window_")["window_coverage_at_50"] - 1e-9


def test_an_item_nobody_listed_joins_the_catalogue_with_its_first_event() -> None:
    prequential = Prequential(5)
    assert prequential.knows(np.array([77])).tolist() == [False]
    prequential.learn([query(0, 1, 77)])
    assert prequential.knows(np.array([77, 78])).tolist() == [True, False]


def test_another_window_begins_anew_and_keeps_the_totals() -> None:
    prequential = Prequential(5)
    answers = np.array([[3, 4]])
    prequential.judge([query(0, 2, 4)], answers)
    other = again(9, [prequential.changes(whole=True)], prequential)
    assert other.metrics()["recall_at_50"] == 1.0
    other.judge([query(0, 2, 8)], answers)
    assert other.metrics()["recall_at_50"] == 0.5
