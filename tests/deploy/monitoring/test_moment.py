"""The clock is put back and forward: ages, waits and orders stay what they are."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from deploy.local.drain import Pipeline, PipelineError
from deploy.monitoring import moment
from deploy.monitoring.freshness import Freshness
from deploy.monitoring.moment import Moment
from deploy.monitoring.part_metrics import PartMetrics
from deploy.monitoring.part_status import age_seconds, is_alive, read_status, reporter
from deploy.service.answer_log import AnswerLog, read_answers
from deploy.service.config import AnswerLogConfig
from deploy.service.workers import note, noted
from indexer.search.query import Query
from streaming.statuses import TrainerStatus
from tests.deploy.monitoring.test_freshness import sequence, state, told
from tests.deploy.service.test_answer_log import ANSWER, write_all

HOUR = 3600.0


class WallClock:
    """The computer's, which jumps by `ahead` seconds when it is told to."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self._real = time.time

    def time(self) -> float:
        return self._real() + self.ahead

    def time_ns(self) -> int:
        return int(self.time() * 1e9)


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Iterator[WallClock]:
    clock = WallClock()
    monkeypatch.setattr(time, "time", clock.time)
    monkeypatch.setattr(time, "time_ns", clock.time_ns)
    yield clock


@pytest.mark.parametrize("jump", [-HOUR, HOUR])
def test_a_part_that_has_just_reported_is_alive_whatever_the_clock_does(
    tmp_path: Path, wall: WallClock, jump: float
) -> None:
    reporter(tmp_path, "train")(TrainerStatus(lag=7))
    wall.ahead = jump
    status = read_status(tmp_path, TrainerStatus)
    assert is_alive(status, moment.now())
    assert 0 <= age_seconds(status, moment.now()) < 5  # type: ignore[operator]
    registry = CollectorRegistry()
    registry.register(PartMetrics(tmp_path))
    assert registry.get_sample_value("sparc_part_up", {"part": "train"}) == 1
    age = registry.get_sample_value("sparc_part_report_age_seconds", {"part": "train"})
    assert age is not None and age < 5


def test_a_part_that_is_silent_is_so_although_the_clock_was_put_back(tmp_path: Path) -> None:
    reporter(tmp_path, "train")(TrainerStatus())
    status = read_status(tmp_path, TrainerStatus)
    now = moment.now()
    later = Moment(now.boot, now.seconds + 60, now.wall - HOUR)
    assert not is_alive(status, later)
    assert age_seconds(status, later) == pytest.approx(60, abs=5)


def test_reports_of_another_machine_or_of_before_a_boot_are_dated_by_the_wall_clock(
    tmp_path: Path,
) -> None:
    reporter(tmp_path, "train")(TrainerStatus())
    status = read_status(tmp_path, TrainerStatus)
    now = moment.now()
    elsewhere = Moment("another boot", 5.0, now.wall + 3)
    assert is_alive(status, elsewhere)
    assert not is_alive(status, elsewhere._replace(wall=now.wall + 60))
    assert not is_alive(status, elsewhere._replace(wall=now.wall - HOUR))  # nobody knows


@pytest.mark.parametrize("jump", [-HOUR, HOUR])
def test_a_worker_that_lives_is_found_whatever_the_clock_does(
    tmp_path: Path, wall: WallClock, jump: float
) -> None:
    note(tmp_path, 2, 4711, 3)
    wall.ahead = jump
    assert noted(tmp_path) == {2: {"port": 4711, "answered": 3}}


class StillParts:
    """A supervisor whose parts run and do nothing."""

    folder = Path("logs")

    def states(self) -> dict[str, Any]:
        return {}

    def memory_bytes(self) -> int:
        return 0


class NoProgress:
    def step(self, name: str) -> None:
        pass

    def show(self, *_: Any) -> None:
        pass


def pipeline(data_dir: Path, timeout: float, stop: threading.Event) -> Pipeline:
    settings: Any = type("Some", (), {"data_dir": data_dir, "drain_timeout_seconds": timeout})()
    supervisor: Any = StillParts()
    progress: Any = NoProgress()
    return Pipeline(settings, supervisor, progress, stop)


def test_a_drain_does_not_wait_for_the_hour_by_which_the_clock_was_put_back(
    tmp_path: Path, wall: WallClock
) -> None:
    stop = threading.Event()
    report = reporter(tmp_path, "train")

    def work() -> None:
        wall.ahead = -HOUR
        while not stop.wait(0.1):
            report(TrainerStatus(caught_up=True))

    part = threading.Thread(target=work)
    watchdog = threading.Timer(10, stop.set)
    watchdog.start()
    drain = pipeline(tmp_path, 300.0, stop)
    threading.Timer(0.2, part.start).start()
    try:
        drain._until("training", lambda s: s.train.caught_up, ("train",))
    finally:
        watchdog.cancel()
        stop.set()
        part.join()


def test_a_drain_stands_still_only_when_it_does(tmp_path: Path, wall: WallClock) -> None:
    stop = threading.Event()
    drain = pipeline(tmp_path, 2.0, stop)
    began = time.monotonic()

    def jump() -> None:
        wall.ahead += HOUR

    threading.Timer(0.5, jump).start()
    with pytest.raises(PipelineError, match="training stands still"):
        drain._until("training", lambda _: False, ())
    assert time.monotonic() - began > 1.9


def test_delays_are_those_that_passed_although_the_clock_jumped(wall: WallClock) -> None:
    freshness = Freshness()
    freshness.serves(state())
    freshness.clicked("forward", time.time() - 0.2)
    wall.ahead = HOUR
    freshness.taken_in([(0, 7, sequence("forward"))])
    freshness.clicked("back", time.time() - 0.2)
    wall.ahead = 0
    freshness.taken_in([(0, 8, sequence("back"))])
    found = told(freshness)["click_in_history"]
    assert found["count"] == 2
    assert 0.1 < found["p50"] < found["p95"] < 1


def test_what_never_arrives_is_forgotten_although_the_clock_was_put_back() -> None:
    now = Moment("here", 0.0, 1000.0)
    freshness = Freshness(lambda: now)
    freshness.clicked("lost", now.wall)
    now = Moment("here", 700.0, 1000.0 - HOUR)
    freshness.taken_in([])
    registry = CollectorRegistry()
    registry.register(freshness)
    assert registry.get_sample_value("sparc_freshness_lost_total", {"what": "click"}) == 1
    assert generate_latest(registry)


def test_the_newest_answers_are_kept_although_the_clock_was_put_back(tmp_path: Path) -> None:
    times = iter((1000.0, 2000.0, 3000.0, 10.0, 11.0))
    for version in range(1, 6):  # each by a service of its own
        answers = AnswerLog(tmp_path, AnswerLogConfig(keep_files=2), clock=lambda: next(times))
        answers.add(version, 1, Query([]), ANSWER)
        write_all(answers)
    assert [row["version"] for row in read_answers(tmp_path).to_pylist()] == [4, 5]
