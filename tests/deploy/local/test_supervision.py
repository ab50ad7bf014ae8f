from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from deploy.local.supervision import Program, Supervisor, last_line
from tests.conftest import ODD_NAME

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]


def eventually(what: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.1)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Supervisor]]:
    started: list[Supervisor] = []

    def begin(*programs: Program) -> Supervisor:
        supervisor = Supervisor(programs, tmp_path / ODD_NAME / "logs", {"WORD": 'a "b", 50%'})
        started.append(supervisor)
        supervisor.wait_until_up()
        return supervisor

    yield begin
    for supervisor in started:
        supervisor.stop()


def test_a_killed_program_comes_back_and_stop_leaves_no_process(
    start: Callable[..., Supervisor],
) -> None:
    supervisor = start(Program("sleeper", SLEEPER, start_seconds=0))
    eventually(lambda: supervisor.states()["sleeper"].state == "RUNNING")
    pid = supervisor.states()["sleeper"].pid
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: supervisor.states()["sleeper"].pid not in (0, pid))
    processes = supervisor.processes()
    assert len(processes) == 2
    assert supervisor.memory_bytes() > 0
    supervisor.stop()
    eventually(lambda: not any(p.is_running() for p in processes))


def test_a_child_that_outlives_a_killed_program_is_ended_too(
    start: Callable[..., Supervisor], tmp_path: Path
) -> None:
    orphan = tmp_path / "orphan.pid"
    code = (
        "import subprocess, sys, time, pathlib\n"
        "child = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        f"pathlib.Path({str(orphan)!r}).write_text(str(child.pid))\n"
        "time.sleep(600)"
    )
    supervisor = start(Program("parent", [sys.executable, "-c", code], start_seconds=0))
    eventually(lambda: orphan.exists() and orphan.read_text() != "")
    supervisor.processes()
    pid = int(orphan.read_text())
    supervisor.stop()
    eventually(lambda: not psutil.pid_exists(pid))


def test_a_one_shot_program_that_fails_is_not_restarted_and_its_last_word_is_found(
    start: Callable[..., Supervisor],
) -> None:
    code = "import sys; print('error: log.csv line 3: no item_id'); print('noise'); sys.exit(1)"
    supervisor = start(Program("replay", [sys.executable, "-c", code], one_shot=True))
    eventually(lambda: supervisor.states()["replay"].state == "EXITED")
    state = supervisor.states()["replay"]
    assert state.exit_status == 1
    assert last_line(state.log) == "log.csv line 3: no item_id"


def test_a_program_that_cannot_start_ends_as_fatal_and_can_be_started_again(
    start: Callable[..., Supervisor], tmp_path: Path
) -> None:
    mended = tmp_path / "mended"
    code = f"import pathlib, time; pathlib.Path({str(mended)!r}).stat(); time.sleep(600)"
    supervisor = start(
        Program("broken", [sys.executable, "-c", code], start_seconds=1),
        Program("sleeper", SLEEPER, start_seconds=0),
    )
    eventually(lambda: supervisor.states()["broken"].state == "FATAL", seconds=60)
    assert supervisor.states()["sleeper"].state == "RUNNING"
    mended.touch()
    supervisor.start_program("broken")
    supervisor.start_program("broken")  # refused, which is nothing to end for
    eventually(lambda: supervisor.states()["broken"].state == "RUNNING")
    supervisor.stop_program("broken")
    eventually(lambda: supervisor.states()["broken"].state == "STOPPED")


def test_the_environment_arrives_unharmed(start: Callable[..., Supervisor]) -> None:
    code = "import os; print(os.environ['WORD'])"
    supervisor = start(Program("echo", [sys.executable, "-c", code], one_shot=True))
    eventually(lambda: supervisor.states()["echo"].state == "EXITED")
    assert last_line(supervisor.states()["echo"].log) == 'a "b", 50%'


def test_a_full_disk_ends_neither_supervisord_nor_what_it_hears_of_a_program(small_disk) -> None:
    disk = small_disk(4)
    code = "import time\nwhile True: print('a word', time.time(), flush=True); time.sleep(0.05)"
    supervisor = Supervisor([Program("talker", [sys.executable, "-c", code])], disk.path, {})
    try:
        supervisor.wait_until_up()
        log = disk.path / "talker.log"
        eventually(lambda: log.exists() and log.stat().st_size > 0)
        disk.fill()
        eventually(lambda: "No space left" in " ".join(supervisor.output))
        pid = supervisor.states()["talker"].pid
        size = log.stat().st_size
        disk.clear()
        eventually(lambda: log.stat().st_size > size + 1000)
        assert supervisor.states()["talker"].pid == pid
        times = [float(line.split()[-1]) for line in log.read_text().splitlines()]
        assert max(b - a for a, b in zip(times, times[1:], strict=False)) < 1.0  # no line is lost
    finally:
        supervisor.stop()


def test_any_name_of_a_directory_and_any_argument_arrive_unharmed(
    start: Callable[..., Supervisor], tmp_path: Path
) -> None:
    place = tmp_path / ODD_NAME
    place.mkdir()
    code = "import os, sys; print(os.getcwd(), *sys.argv[1:], sep='|')"
    words = [ODD_NAME, " ;a", " #b", "50%", "\\", "'\""]
    command = [sys.executable, "-c", code, *words]
    supervisor = start(Program("echo-1", command, place, one_shot=True))
    eventually(lambda: supervisor.states()["echo-1"].state == "EXITED")
    log = supervisor.states()["echo-1"].log
    assert log == tmp_path / ODD_NAME / "logs" / "echo-1.log"
    assert last_line(log).split("|") == [str(place), *words]


def test_a_socket_has_a_short_path_whatever_the_place_for_temporary_files(
    start: Callable[..., Supervisor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    supervisor = start(Program("sleeper", SLEEPER, start_seconds=0))
    assert supervisor.states()["sleeper"].name == "sleeper"
