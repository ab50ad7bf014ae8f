from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from replay.errors import ReplayError
from replay.staging import stage
from replay.synthetic import DAY, START, SyntheticConfig, make, write

SMALL = SyntheticConfig(users=300, items=200, events=6000, days=200)


@pytest.fixture(scope="module")
def log():
    config = SyntheticConfig()
    events, items = make(config)
    columns = {name: np.asarray(events[name]) for name in events.column_names}
    return config, columns, items.to_pydict()


def test_it_has_the_size_asked_for(log):
    config, events, items = log
    assert len(events["time"]) == config.events == 60_000
    assert len(np.unique(events["user_id"])) == config.users == 3000
    assert items["item_id"] == list(range(1, 2001))
    assert set(np.unique(events["item_id"])) <= set(items["item_id"])
    assert events["time"].min() >= START
    assert events["time"].max() < START + config.days * DAY + 60
    assert all(items["title"]) and all(items["category"])


def test_no_event_is_there_twice(log):
    _, events, _ = log
    assert len(np.unique(np.stack(list(events.values())), axis=1).T) == 60_000


def test_items_and_users_have_a_long_tail(log):
    _, events, _ = log
    for column, share in (("item_id", 0.5), ("user_id", 0.5)):
        counts = np.sort(np.unique(events[column], return_counts=True)[1])[::-1]
        assert counts[: len(counts) // 5].sum() > share * counts.sum()


def test_users_and_items_arrive_over_time(log):
    config, events, _ = log
    half = START + config.days * DAY // 2
    for column in ("user_id", "item_id"):
        before = set(events[column][events["time"] < half])
        after = set(events[column][events["time"] >= half])
        assert len(after - before) > 0.05 * len(before)


def test_a_users_next_event_can_be_guessed_from_the_last_ones(log):
    _, events, items = log
    category = np.unique(items["category"], return_inverse=True)[1][events["item_id"] - 1]
    order = np.lexsort((events["time"], events["user_id"]))
    user, category = events["user_id"][order], category[order]
    same_user = user[1:] == user[:-1]
    assert (category[1:] == category[:-1])[same_user].mean() > 0.5
    assert (np.random.default_rng(1).permutation(category) == category).mean() < 0.15


def test_interests_drift(log):
    _, events, items = log
    category = np.unique(items["category"], return_inverse=True)[1][events["item_id"] - 1]
    kept = []
    for user in range(1, 400):
        mine = np.flatnonzero(events["user_id"] == user)
        if len(mine) >= 40:
            early, late = (
                np.bincount(part, minlength=12) / len(part)
                for part in np.array_split(category[mine], 4)[::3]
            )
            kept.append(np.minimum(early, late).sum())
    assert np.mean(kept) < 0.8


def test_the_same_seed_gives_the_same_files_and_another_seed_others(tmp_path):
    def content(config, folder):
        return [path.read_bytes() for path in write(config, tmp_path / folder)]

    assert content(SMALL, "a") == content(SMALL, "b") != content(replace(SMALL, seed=8), "c")


def test_files_are_kept_for_the_same_configuration_and_replaced_for_another(tmp_path):
    events, _ = write(SMALL, tmp_path / "made")
    stamp = events.stat().st_mtime_ns
    write(SMALL, tmp_path / "made")
    assert events.stat().st_mtime_ns == stamp
    write(replace(SMALL, events=5000), tmp_path / "made")
    assert len(events.read_text().splitlines()) == 5001
    assert [p.name for p in tmp_path.iterdir()] == ["made"]


def test_it_is_read_like_any_other_log(tmp_path, now_ms):
    log = stage(*write(SMALL, tmp_path / "made"), tmp_path, now_ms)
    assert (log.events, log.items, log.bad_lines) == (6000, 200, 0)


@pytest.mark.parametrize("size", [{"users": 0}, {"items": 3}, {"events": 10}, {"days": 0}])
def test_impossible_sizes_are_refused(size):
    with pytest.raises(ReplayError, match="a synthetic log needs"):
        replace(SMALL, **size)


def test_a_tiny_log_can_be_made():
    events, _ = make(SyntheticConfig(users=5, items=48, events=5, days=1))
    assert events.num_rows == 5
