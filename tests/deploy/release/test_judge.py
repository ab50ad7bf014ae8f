from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from deploy.release.config import JudgeConfig
from deploy.release.decisions import DECISIONS, SERVED, Decision, decide, decisions, read_served
from deploy.release.judge import Judge, RecentEvents
from deploy.service.snapshot_follower import SnapshotFollower
from indexer.comparison.paired_queries import compare
from indexer.errors import SnapshotError
from indexer.search.config import SearchConfig
from indexer.search.retriever import Retriever
from indexer.snapshots.pointer import snapshot_path
from model.histories import History
from streaming.events import UserSequence
from streaming.items import Item
from tests.deploy.snapshot_maker import START_MS, Shelf, clicks

SEARCH = SearchConfig(codes=4)


class Judging:
    """A follower with a judge on a data directory, moved by hand."""

    def __init__(self, shelf: Shelf, config: JudgeConfig) -> None:
        self.shelf = shelf
        self.data_dir = shelf.data_dir
        self.now = 0.0
        self.recent = RecentEvents()
        self._config = config
        self.start()

    def start(self) -> None:
        judge = Judge(self._config, self.recent, "sequences")
        self.follower = SnapshotFollower(
            self.data_dir, SEARCH, clock=lambda: self.now, judge=judge, retry_seconds=0.0
        )

    def look(self) -> int | None:
        self.follower.poll()
        return self.follower.retriever.version if self.follower.retriever else None

    def happens(self, sequences: list[UserSequence], offset: int = 10_000) -> None:
        self.recent.add([(0, offset + at, s) for at, s in enumerate(sequences)])

    @property
    def actions(self) -> list[tuple[int, str]]:
        return [(d.version, d.action) for d in decisions(self.data_dir)]


@pytest.fixture
def judging(shelf: Shelf) -> Iterator[Judging]:
    yield Judging(shelf, JudgeConfig(least_events=20, patience_seconds=5.0))


def answered_well(state: Retriever, badly: Retriever, count: int = 40) -> list[UserSequence]:
    """Events whose item the one version answers, and the other does not."""
    found = []
    for user in range(1, count + 1):
        history, times = [1 + user % 50], [START_MS]
        now = np.array([START_MS], np.int64)
        mine = [History(history, times)]
        good, bad = (s.items_for(mine, now, 60)[0].tolist() for s in (state, badly))
        target = max(good, key=lambda item: bad.index(item) - good.index(item))
        found.append(UserSequence(f"e{user}", user, START_MS, 2, history, times, target))
    return found


def test_the_first_version_serves_at_once_and_the_next_waits_for_events(judging: Judging) -> None:
    judging.shelf.publish(1)
    assert judging.look() == 1
    judging.shelf.publish(2)
    assert judging.look() == 1
    assert judging.follower.challenger == 2
    judging.happens(clicks()[:60])
    assert judging.look() == 2
    assert judging.actions == [(1, "first"), (2, "promoted")]
    served = read_served(judging.data_dir)
    assert served is not None
    assert (served.version, served.previous, served.pinned) == (2, 1, False)
    last = decisions(judging.data_dir)[-1]
    assert last.evidence["queries"] >= 20
    assert last.evidence["low"] <= last.evidence["difference"] <= last.evidence["high"]
    assert "not worse" in last.reason


def test_without_events_a_version_is_promoted_after_the_patience(judging: Judging) -> None:
    judging.shelf.publish(1)
    judging.look()
    judging.shelf.publish(2)
    judging.look()
    judging.now = 4.9
    assert judging.look() == 1
    judging.now = 5.1
    assert judging.look() == 2
    assert "not judged: 0 events" in decisions(judging.data_dir)[-1].reason


def test_events_that_the_challenger_learnt_from_are_no_evidence(judging: Judging) -> None:
    judging.shelf.publish(1)
    judging.look()
    judging.happens(clicks()[:48], offset=0)  # version 2 was trained to offset 48
    judging.shelf.publish(2)
    assert judging.look() == 1
    assert judging.follower.challenger == 2


def test_a_worse_version_is_kept_with_the_reason_and_the_next_one_is_judged(
    judging: Judging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexer.comparison.paired_queries.DEPTH", 10)
    manifest = {v: judging.shelf.publish(v, move_pointer=False) for v in (1, 2)}
    states = {v: Retriever.load(judging.data_dir / snapshot_path(v), SEARCH) for v in manifest}
    judging.shelf.point_at(1)
    assert judging.look() == 1
    judging.happens(answered_well(states[1], states[2]))
    judging.shelf.point_at(2)
    assert judging.look() == 1
    assert judging.actions[-1] == (2, "kept")
    kept = decisions(judging.data_dir)[-1]
    assert kept.evidence["high"] < 0
    assert kept.reason.endswith("worse")
    assert judging.look() == 1  # not judged again
    assert len(judging.actions) == 2
    judging.recent = RecentEvents(100)
    judging.start()  # what was kept stays kept through a restart
    assert judging.look() == 1
    judging.shelf.publish(3)
    judging.look()
    judging.now = 6.0
    assert judging.look() == 3


def test_a_pinned_version_serves_until_it_is_released(judging: Judging) -> None:
    for version in (1, 2):
        judging.shelf.publish(version)
        judging.look()
        judging.now += 6
        judging.look()
    assert decide(judging.data_dir, Decision(1, "pinned", "person", "a trial"))
    assert judging.look() == 1
    judging.shelf.publish(3)
    judging.now += 60
    assert judging.look() == 1
    assert decisions(judging.data_dir)[-1].reason == "version 1 is pinned"
    judging.start()
    assert judging.look() == 1
    decide(judging.data_dir, Decision(3, "promoted", "person", "enough"))
    assert judging.look() == 3
    served = read_served(judging.data_dir)
    assert served is not None
    assert (served.previous, served.pinned) == (1, False)


def test_a_version_that_was_overtaken_is_recorded(judging: Judging) -> None:
    judging.shelf.publish(1)
    judging.look()
    judging.shelf.publish(2)
    judging.look()
    judging.shelf.publish(3)
    judging.look()
    assert judging.actions[-1] == (2, "superseded")
    assert judging.follower.challenger == 3


def test_new_items_are_found_while_an_older_version_serves(judging: Judging) -> None:
    judging.shelf.publish(1)
    judging.look()
    judging.shelf.publish(2)
    judging.shelf.append(2, [Item(1000, "Item 1000 of kind 3", "kind 3", "B1000", START_MS)])
    assert judging.look() == 1
    state = judging.follower.retriever
    assert state is not None
    assert 1000 in state.snapshot.appended_items
    assert state.titles([1000])[0]["title"] == "Item 1000 of kind 3"
    codes, _ = state.snapshot.lists.locate(np.array([1000]))
    assert codes[0] >= 0


def damaged(judging: Judging, version: int) -> None:
    path = judging.data_dir / snapshot_path(version) / "index/00001.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"zzzz")


@pytest.mark.parametrize("newest", [2, 3], ids=["the one that answers", "another"])
def test_a_served_version_that_cannot_be_read_gives_way_to_the_newest_and_later_ones_are_judged(
    judging: Judging, newest: int
) -> None:
    for version in (1, 2):
        judging.shelf.publish(version)
    decide(judging.data_dir, Decision(1, "promoted", "person", "the test"))
    damaged(judging, 1)
    if newest == 3:
        judging.shelf.publish(3)
    judging.start()
    assert judging.look() == newest and judging.follower.last_error == ""
    last = decisions(judging.data_dir)[-1]
    assert (last.version, last.action, last.by) == (newest, "promoted", "judge")
    assert last.reason == "version 1 cannot be read"
    judging.shelf.append(newest, [Item(1000, "new", listed_at=START_MS)])
    judging.look()
    assert judging.follower.retriever is not None
    assert 1000 in judging.follower.retriever.snapshot.appended_items
    if newest == 2:
        judging.shelf.publish(3)
        assert judging.look() == 2 and judging.follower.challenger == 3
        judging.now = 6.0
        assert judging.look() == 3


@pytest.mark.parametrize("answers", [2, 3], ids=["an older one answers", "the newest answers"])
def test_where_a_pinned_version_cannot_be_read_what_answers_goes_on_with_what_is_listed(
    judging: Judging, answers: int
) -> None:
    for version in (1, 2):
        judging.shelf.publish(version)
    decide(judging.data_dir, Decision(answers, "promoted", "person", "the test"))
    if answers == 3:
        judging.shelf.publish(3)
    assert judging.look() == answers
    damaged(judging, 1)
    decide(judging.data_dir, Decision(1, "pinned", "person", "the test"))
    judging.look()
    if answers == 2:
        judging.shelf.publish(3)
    judging.shelf.append(3, [Item(1000, "new", listed_at=START_MS)])
    assert judging.look() == answers and "00001.safetensors" in judging.follower.last_error
    assert judging.follower.retriever is not None
    assert 1000 in judging.follower.retriever.snapshot.appended_items
    served = read_served(judging.data_dir)
    assert served is not None and (served.version, served.pinned) == (1, True)


def test_a_person_who_moves_the_switch_meanwhile_wins(tmp_path: Path) -> None:
    decide(tmp_path, Decision(1, "first", "judge", ""))
    decide(tmp_path, Decision(5, "pinned", "person", ""))
    assert not decide(tmp_path, Decision(2, "promoted", "judge", ""), if_served=1)
    served = read_served(tmp_path)
    assert served is not None
    assert (served.version, served.previous, served.pinned) == (5, 1, True)


def test_a_line_cut_off_by_a_crash_is_left_out(tmp_path: Path) -> None:
    decide(tmp_path, Decision(1, "first", "judge", ""))
    with (tmp_path / DECISIONS).open("ab") as file:
        file.write(b'{"version": 2, "act')
    assert [d.version for d in decisions(tmp_path)] == [1]
    decide(tmp_path, Decision(3, "promoted", "judge", ""))
    assert [d.version for d in decisions(tmp_path)] == [1, 3]


def test_a_malformed_switch_is_named(tmp_path: Path) -> None:
    (tmp_path / SERVED).write_text("{}")
    with pytest.raises(SnapshotError, match=r"served\.json: malformed"):
        read_served(tmp_path)


def test_the_same_version_differs_by_nothing(shelf: Shelf) -> None:
    shelf.publish(1)
    state = Retriever.load(shelf.data_dir / snapshot_path(1), SEARCH)
    paired = compare(state, state, [s for s in clicks() if s.history_items])
    assert (paired.difference, paired.low, paired.high) == (0.0, 0.0, 0.0)
    assert paired.recall_a == paired.recall_b > 0
