"""A split divides the users the same way everywhere, and one that makes no sense is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.release.split import (
    SPLIT,
    Arm,
    Split,
    SplitError,
    place_of,
    read_split,
    set_split,
    split_versions,
    stop_split,
)
from indexer.search.config import SearchConfig

USERS = range(20_000)


def test_users_are_divided_by_shares_and_stay_where_they_are_when_an_arm_comes() -> None:
    one = Split("colours", (Arm("red", 0.2),))
    two = Split("colours", (Arm("red", 0.2), Arm("blue", 0.3)))
    red = {user for user in USERS if one.arm_of(user) is not None}
    assert abs(len(red) / len(USERS) - 0.2) < 0.01
    names = [arm.name if (arm := two.arm_of(user)) else "" for user in USERS]
    assert {user for user in USERS if names[user] == "red"} == red
    assert abs(names.count("blue") / len(USERS) - 0.3) < 0.01
    assert all(two.arm_of(user) for user in USERS) is False
    assert all(Split("all", (Arm("a", 0.5), Arm("b", 0.5))).arm_of(user) for user in USERS)


def test_two_splits_divide_the_users_independently() -> None:
    a, b = (np.array([place_of(name, user) for user in USERS]) for name in ("one", "other"))
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.02
    assert abs(((a < 0.5) & (b < 0.5)).mean() - 0.25) < 0.01


def test_a_place_is_the_same_for_ever() -> None:
    """Whoever changes this moves users between the arms of a split that runs."""
    assert place_of("colours", 42) == 0.16076661073023318
    assert place_of("colours", -(2**63)) == 0.8293535058402656


def test_who_is_nobody_is_in_no_arm() -> None:
    assert Split("all", (Arm("a", 1.0),)).arm_of(None) is None


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Split("a b", (Arm("x", 0.1),)), "split 'a b'"),
        (lambda: Split("s", ()), "arms: there are 0"),
        (lambda: Split("s", (Arm("x", 0.6), Arm("y", 0.6))), "the shares add up to 1.2"),
        (lambda: Split("s", (Arm("x", 0.1), Arm("x", 0.1))), "'x' is there twice"),
        (lambda: Arm("x", 0.0), "arm 'x': share is 0.0"),
        (lambda: Arm("x", 1.5), "share is 1.5"),
        (lambda: Arm("x", float("nan")), "share is nan"),
        (lambda: Arm("default", 0.1), "the arm of all others"),
        (lambda: Arm("../x", 0.1), "a name has 1 to 64"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_field(make: Any, words: str) -> None:
    with pytest.raises(SplitError, match=words):
        make()


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ({"cods": "8"}, r"\[search\] has no setting 'cods' of an arm; there are codes, "),
        ({"device": "cpu"}, "no setting 'device'"),
        ({"device_memory_mib": "1"}, "no setting 'device_memory_mib'"),
        ({"explore": "8"}, "no setting 'explore'"),
        ({"codes": "many"}, "search.codes: Input should be a valid integer"),
        ({"codes": "0"}, "codes is 0"),
        ({"quota": "fair"}, "search.quota"),
        ({"explore.untouched": "3"}, "untouched is 3.0"),
    ],
)
def test_a_setting_of_the_search_is_checked(search: dict[str, str], words: str) -> None:
    with pytest.raises(SplitError, match=f"arm 'x': .*{words}"):
        Arm("x", 0.1, search=search).searched(SearchConfig())


def test_an_arm_searches_as_it_says_and_else_as_all_do() -> None:
    arm = Arm("x", 0.1, search={"codes": "4", "explore.young": "0.5"})
    found = arm.searched(SearchConfig(temperature=2.0))
    assert (found.codes, found.temperature, found.explore.young) == (4, 2.0, 0.5)
    assert found.explore.untouched == SearchConfig().explore.untouched


def test_it_is_read_as_it_was_set_until_it_is_stopped(tmp_path: Path) -> None:
    assert read_split(tmp_path) is None and stop_split(tmp_path) is None
    arms = (Arm("x", 0.1, 3, {"codes": "4"}), Arm("y", 0.2, 7, shadow=True), Arm("z", 0.3))
    split = set_split(tmp_path, Split("s", arms), clock=lambda: 5.0)
    assert read_split(tmp_path) == split and split.at_ms == 5000
    assert split_versions(tmp_path) == {3, 7}
    assert stop_split(tmp_path) == split
    assert read_split(tmp_path) is None and split_versions(tmp_path) == set()


def test_a_malformed_file_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / SPLIT).write_text('{"name": "s", "arms": [{"name": "x", "share": 2}]}')
    with pytest.raises(SplitError, match=r"split\.json: malformed .*`sparc split stop`"):
        read_split(tmp_path)
    with pytest.raises(SplitError):  # no version may go meanwhile
        split_versions(tmp_path)
    assert stop_split(tmp_path) is None and not (tmp_path / SPLIT).exists()
