"""The made catalogue: what the benchmark of growth relies on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from replay.staging import stage
from tests.benchmarks.made_catalogue import START_MS, CatalogueSize, MadeCatalogue, make

SIZE = CatalogueSize(items=4000, events=6000, users=400, births=300)


@pytest.fixture(scope="module")
def made() -> MadeCatalogue:
    return make(SIZE)


def test_it_is_as_large_as_asked_and_the_same_each_time(made):
    assert len(made.item_ids_N) == 4000 and len(made.times_E) == 6000
    assert (np.diff(made.times_E) > 0).all()
    again = make(SIZE)
    for name in ("born_N", "users_E", "items_E", "times_E"):
        assert np.array_equal(getattr(again, name), getattr(made, name)), name
    assert again.titles_N == made.titles_N and again.categories_N == made.categories_N
    assert make(CatalogueSize(items=4000, events=6000, seed=1)).titles_N != made.titles_N


def test_items_are_born_before_they_are_clicked_and_nobody_has_one_twice(made):
    assert ((made.born_N > START_MS).sum()) == 300
    assert (made.born_N[made.items_E - 1] <= made.times_E).all()
    assert len(np.unique(np.stack([made.users_E, made.items_E]), axis=1).T) == 6000
    before, after = list(made.items(0, START_MS + 1)), list(made.items(START_MS + 1))
    assert (len(before), len(after)) == (3700, 300)
    assert [i.listed_at for i in after] == sorted(i.listed_at for i in after)
    assert all(3 <= len(i.title.split()) <= 10 and i.category for i in before)


def test_a_tail_is_long_and_what_a_user_had_says_what_comes_next(made):
    counts = np.sort(np.bincount(made.items_E, minlength=4001))[::-1]
    assert counts[:400].sum() > 0.4 * 6000 and (counts[:4000] == 0).sum() > 200
    words = [set(title.split()) for title in made.titles_N.to_pylist()]
    rng, alike, by_chance = np.random.default_rng(0), [], []
    for sequence in made.sequences():
        if sequence.history_items:
            target, last = words[sequence.target - 1], words[sequence.history_items[-1] - 1]
            alike.append(len(target & last))
            by_chance.append(len(target & words[rng.choice(made.items_E) - 1]))
    assert np.mean(alike) > 2 * np.mean(by_chance)


def test_histories_are_those_of_the_clicks(made):
    past: dict[int, list[int]] = {}
    for e, sequence in enumerate(made.sequences()):
        had = past.setdefault(sequence.user_id, [])
        assert sequence.history_items == had[-50:] and sequence.position == len(had) + 1
        assert (sequence.user_id, sequence.target) == (made.users_E[e], made.items_E[e])
        assert all(t < sequence.event_time for t in sequence.history_times)
        had.append(sequence.target)


def test_the_files_are_a_log_that_the_replay_takes_whole(made, tmp_path: Path):
    events, items = made.write(tmp_path / "made")
    log = stage(events, items, tmp_path / "state", START_MS)
    assert (log.events, log.items, log.bad_lines) == (6000, 4000, 0)
