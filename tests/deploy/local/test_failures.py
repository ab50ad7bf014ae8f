"""A part that fails takes no other one down: it is told, tried again, and named at the end."""

from __future__ import annotations

import io
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from deploy.commands import status
from deploy.local.drain import Pipeline, PipelineError
from deploy.local.failures import Failures
from deploy.local.progress import Progress
from deploy.local.supervision import ProcessState
from deploy.monitoring import moment
from deploy.monitoring.part_failures import SUPERVISION, Failure, as_status, read_failures
from deploy.monitoring.part_metrics import PartMetrics
from deploy.monitoring.part_status import reporter
from deploy.settings import Settings
from streaming.statuses import StreamStatus

LAST_WORDS = "error: experiment 'sparc-stream' is deleted"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "register.log"
    path.write_text(f"noise\n{LAST_WORDS}\n", encoding="utf-8")
    return path


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class Programs:
    """Notes what is started and stopped."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.started: list[float] = []
        self.stopped: list[float] = []

    def start_program(self, name: str) -> None:
        self.started.append(self.clock())

    def stop_program(self, name: str) -> None:
        self.stopped.append(self.clock())


@pytest.fixture
def programs() -> Programs:
    return Programs(Clock())


@pytest.fixture
def failures(programs: Programs) -> Failures:
    return Failures(programs, programs.clock, programs.clock)


def state(log: Path, word: str = "FATAL", **more: Any) -> ProcessState:
    return replace(ProcessState("register", word, 0, 1, log, False), **more)


WHY = LAST_WORDS.removeprefix("error: ")


def test_what_is_given_up_is_tried_again_later_each_time_until_it_is_well(
    log: Path, programs: Programs, failures: Failures
) -> None:
    clock = programs.clock

    def look(word: str, **more: Any) -> list[Failure]:
        return failures.look({"register": state(log, word, **more)})

    assert look("RUNNING", pid=1) == []
    first = look("FATAL")
    assert [(f.state, f.why, f.since) for f in first] == [("failed", WHY, 1000.0)]
    assert first[0].next_try_seconds == 30.0
    while len(programs.started) < 7:
        clock.seconds += 1
        if look("FATAL")[0].state == "tried again":
            clock.seconds += 1
            assert look("STARTING", pid=2)[0].state == "tried again"
    tries = programs.started
    pauses = [round(after - before) for before, after in zip(tries, tries[1:], strict=False)]
    # a second to fail again, and a second until that is looked at
    assert pauses == [62, 122, 242, 482, 602, 602]
    assert look("FATAL")[0].attempts == 8
    assert look("FATAL")[0].since == 1000.0

    clock.seconds += 600
    assert look("FATAL")[0].state == "tried again"
    clock.seconds += 1
    assert look("RUNNING", pid=9)[0].state == "tried again"
    clock.seconds += 59
    assert look("RUNNING", pid=9)[0].state == "tried again"
    clock.seconds += 1
    assert look("RUNNING", pid=9) == []


def test_the_service_is_never_left_down_for_long(
    log: Path, programs: Programs, failures: Failures
) -> None:
    for _ in range(4):
        (failure,) = failures.look({"serve": state(log, name="serve")})
        assert failure.next_try_seconds == 30.0
        programs.clock.seconds += 30
        failures.look({"serve": state(log, name="serve")})
    assert len(programs.started) == 4


def test_a_one_shot_part_that_refuses_is_down_and_one_that_is_killed_or_done_is_not(
    log: Path, failures: Failures
) -> None:
    refused = state(log, "EXITED", one_shot=True)
    assert failures.look({"replay": replace(refused, exit_status=0)}) == []
    assert failures.look({"replay": replace(refused, exit_status=-9)}) == []
    assert failures.look({"replay": refused})[0].state == "failed"


def test_a_part_that_dies_soon_after_each_start_is_stopped_and_tried_later(
    log: Path, programs: Programs, failures: Failures
) -> None:
    clock = programs.clock

    def look(pid: int, word: str = "RUNNING") -> list[Failure]:
        return failures.look({"register": state(log, word, pid=pid)})

    assert look(1) == []
    clock.seconds += 61  # it was well, so this death is an accident
    for pid in range(2, 6):
        assert look(pid) == []
        clock.seconds += 20
    (failure,) = look(6)
    assert (failure.state, failure.why, failure.next_try_seconds) == ("failed", WHY, 30.0)
    assert programs.stopped == [clock()]
    assert look(6, "STOPPING")[0].state == "failed"
    clock.seconds += 30
    assert look(0, "STOPPED")[0].state == "tried again"
    assert programs.started == [clock()]
    clock.seconds += 20
    assert look(7)[0].state == "tried again"
    clock.seconds += 20
    assert look(8)[0].next_try_seconds == 60.0  # once is enough now
    assert len(programs.stopped) == 2


class Supervised:
    """Says that the registrar is down and everything else runs."""

    def __init__(self, log: Path) -> None:
        self.folder = log.parent
        self.down = state(log)
        self.well = replace(self.down, name="serve", state="RUNNING", pid=7)

    def states(self) -> dict[str, ProcessState]:
        return {"serve": self.well, "register": self.down}

    def start_program(self, name: str) -> None: ...

    def processes(self) -> list[Any]:
        return []

    def memory_bytes(self) -> int:
        return 0


def test_the_pipeline_stays_says_who_is_down_and_ends_with_that(log: Path, tmp_path: Path) -> None:
    said = io.StringIO()
    stop = threading.Event()
    with Progress(Console(file=said, width=400), {}, every_seconds=0.0) as progress:
        pipeline: Any = Pipeline(
            Settings(data_dir=tmp_path),
            Supervised(log),
            progress,
            stop,  # type: ignore[arg-type]
        )
        ended: list[str] = []

        def stay() -> None:
            try:
                pipeline.stay()
            except PipelineError as error:
                ended.append(str(error))

        thread = threading.Thread(target=stay)
        thread.start()
        deadline = time.monotonic() + 20
        while not read_failures(tmp_path, moment.now()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(1.5)
        assert not ended
        stop.set()
        thread.join()
    sentence = f"register failed: {WHY} (log: {log})"
    assert ended == [sentence]
    assert sentence in said.getvalue()


def test_status_and_metrics_name_what_is_down_and_why(
    log: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    down = [
        Failure("kafka", "failed", "no jars", "logs/kafka.log", time.time(), 2, 41.0),
        Failure("train", "tried again", "loss is nan", "logs/train.log", time.time()),
    ]
    reporter(tmp_path, SUPERVISION)(as_status(down))
    reporter(tmp_path, "stream")(StreamStatus(job_state="RESTARTING", problem="no slot"))
    facts = status.status_of(Settings(data_dir=tmp_path))
    assert facts["failed"]["kafka"]["why"] == "no jars"
    monkeypatch.setattr(status, "console", Console(soft_wrap=True, width=400))
    status.show_status(facts)
    shown = capsys.readouterr().out
    lines: dict[str, str] = {}
    for line in filter(str.strip, shown.splitlines()):
        lines.setdefault(line.split()[0], line)
    assert "failed" in lines["kafka"]
    assert "no jars (log: logs/kafka.log); tried again in 41 s" in lines["kafka"]
    assert "tried again" in lines["train"]
    assert "loss is nan" in lines["train"]
    assert "job RESTARTING · no slot" in lines["stream"]
    values = {
        sample.labels["part"]: sample.value
        for metric in PartMetrics(tmp_path).collect()
        if metric.name == "sparc_part_failed"
        for sample in metric.samples
    }
    assert values["kafka"] == values["train"] == 1
    assert values["serve"] == 0


def test_what_a_pipeline_told_that_runs_no_more_is_old_news(tmp_path: Path) -> None:
    reporter(tmp_path, SUPERVISION)(as_status([Failure("x", "failed", "", "", 0.0)]))
    now = moment.now()
    assert read_failures(tmp_path, now)
    assert not read_failures(tmp_path, now._replace(seconds=now.seconds + 60, wall=now.wall + 60))
