"""Arms compared: counts by hand, and intervals that hold what they promise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deploy.release.split import Arm, Split
from deploy.service.split_comparison import compare_arms, logged_since
from deploy.service.user_history import UserHistory

HOUR = 3_600_000
NOW = 1_000 * HOUR
SPLIT = Split("s", (Arm("a", 0.5), Arm("ghost", 0.5, shadow=True)))


def table(rows: list[tuple[int, int, list[int], str]]) -> pa.Table:
    names = ("user_id", "now_ms", "items", "arm")
    return pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))


def clicked(**histories: list[tuple[int, int]]) -> Callable[[int], UserHistory | None]:
    """`u1=[(item, time), ...]`."""

    def of(user: int) -> UserHistory | None:
        clicks = histories.get(f"u{user}")
        return UserHistory(9, *map(list, zip(*clicks, strict=True))) if clicks else None

    return of


def test_a_click_counts_once_after_the_answer_and_within_the_window() -> None:
    answers = table(
        [
            (1, 10 * HOUR, [7, 8, 9], "default"),
            (1, 12 * HOUR, [7, 5], "default"),
            (2, 10 * HOUR, [7, 8], "a"),
            (3, NOW, [7], "a"),  # its window is not over
        ]
    )
    clicks = clicked(
        u1=[
            (8, 10 * HOUR),  # not after it
            (9, 12 * HOUR + 1),
            (9, 12 * HOUR + 2),  # clicked once, however often
            (7, 12 * HOUR + 3),  # of both answers
            (5, 15 * HOUR),  # too late
        ]
    )
    default, a, ghost = compare_arms(SPLIT, answers, clicks, NOW, 3 * HOUR - 1)
    assert (default["users"], default["answers"], default["items"]) == (1, 2, 5)
    assert default["clicked"] == 2 + 1 and default["rate"] == 3 / 5
    assert default["interval"] is None  # of one user
    assert (a["answers"], a["waiting"], a["clicked"], a["rate"]) == (1, 1, 0, 0.0)
    assert a["difference"] == pytest.approx(-3 / 5)
    assert ghost["shadow"] and ghost["answers"] == 0 and ghost["interval"] is None


def test_a_shadow_arm_is_compared_on_its_own_users() -> None:
    rows = [(user, HOUR, [1, 2], "default") for user in (1, 2, 3)]
    rows += [(user, HOUR, [1, 3], "ghost") for user in (1, 2)]
    clicks = clicked(u1=[(1, 2 * HOUR)], u2=[(3, 2 * HOUR)], u3=[(2, 2 * HOUR)])
    default, _, ghost = compare_arms(SPLIT, table(rows), clicks, NOW, 24 * HOUR)
    assert default["rate"] == 2 / 6 and ghost["rate"] == 2 / 4
    assert ghost["difference"] == pytest.approx(2 / 4 - 1 / 4)


def test_nineteen_of_twenty_intervals_hold_the_truth() -> None:
    """Users differ in how much they ask and click; arms differ by half."""
    random = np.random.default_rng(0)
    held = held_difference = 0
    runs = 300
    split = Split("s", (Arm("a", 0.5),))
    for _ in range(runs):
        rows, clicks = [], {}
        for user in range(1, 121):
            arm, rate = ("a", 0.3) if user % 2 else ("default", 0.2)
            own = random.beta(rate * 4, (1 - rate) * 4)
            asked = int(random.integers(1, 5))
            mine = []
            for n in range(asked):
                rows.append((user, n * 100, [2 * n, 2 * n + 1], arm))
                mine += [(2 * n + i, n * 100 + 1) for i in (0, 1) if random.random() < own]
            if mine:
                clicks[f"u{user}"] = mine
        default, a = compare_arms(split, table(rows), clicked(**clicks), NOW, HOUR)
        held += default["interval"][0] < 0.2 < default["interval"][1]
        held_difference += a["difference_interval"][0] < 0.1 < a["difference_interval"][1]
    assert 0.91 < held / runs < 0.98
    assert 0.91 < held_difference / runs < 0.98


def test_a_damaged_file_of_answers_is_left_out(tmp_path: Path) -> None:
    one = {name: [1] for name in ("answered_ms", "now_ms", "user_id")}
    row = pa.table({**one, "items": [[7]], "split": ["s"], "arm": ["a"]})
    for name in ("1", "3"):
        pq.write_table(row, tmp_path / f"{name}.parquet")
    (tmp_path / "2.parquet").write_bytes(b"")
    (tmp_path / "4.parquet").write_bytes(b"PAR1 and no more")
    assert logged_since(tmp_path, SPLIT)["user_id"].to_pylist() == [1, 1]
