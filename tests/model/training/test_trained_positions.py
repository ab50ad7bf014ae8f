from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.training import trained_positions
from model.training.trained_positions import TrainedPositions

users = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(0, 9))


@given(
    st.lists(st.one_of(st.tuples(users, st.integers(1, 2**31)), st.just("restart"))),
    st.integers(1, 5),
)
def test_it_is_a_dictionary_that_fits_a_checkpoint(
    steps: list[tuple[int, int] | str], merge_at: int
) -> None:
    expected: dict[int, int] = {}
    kept: list[dict[str, np.ndarray]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trained_positions, "MERGE_AT", merge_at)
        positions = TrainedPositions()
        for step in steps:
            if isinstance(step, str):
                kept.append(positions.changes(whole=not kept))
                positions = TrainedPositions()
                for changes in kept:
                    positions.apply(changes)
            else:
                positions[step[0]] = expected[step[0]] = step[1]
        assert all(positions[user] == position for user, position in expected.items())
        assert positions[12345] == expected.get(12345, 0)


def test_a_user_who_is_forgotten_is_in_nothing_that_is_saved() -> None:
    positions = TrainedPositions()
    for user in (3, 7, 9):
        positions[user] = 5
    positions.changes(whole=False)
    positions.forget(7)
    assert positions[7] == 0
    whole = positions.changes(whole=True)
    assert whole["users"].tolist() == [3, 9]
    positions[7] = 1
    assert positions.changes(whole=True)["users"].tolist() == [3, 7, 9]
