"""Workers as forked processes: who dies is started again, and the others go on."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkProcess
from pathlib import Path

import psutil
import pytest

from deploy.service import worker_group
from deploy.service.config import ServiceConfig, ServiceError, Worker
from deploy.service.process import listen
from deploy.service.worker_group import NO_ROOM, REFUSED, WorkerGroup
from deploy.settings import ROOT
from indexer.search.config import SearchConfig
from streaming.kafka_clients import KafkaConnection
from tests.deploy.snapshot_maker import Shelf

FASTER = 50.0
"""Seconds of a group's clock in one of ours."""


class Group:
    """A group of workers that note their lives in files `<number>-<pid>`, in a thread of its own.

    `life` is what a worker does; it gives the exit code.
    """

    def __init__(self, folder: Path, life: Callable[[Worker], int], workers: int = 2) -> None:
        self.folder, self._life = folder, life
        config = ServiceConfig(workers=workers)
        service = Worker(config, folder, KafkaConnection(""), "", SearchConfig())
        self._group = WorkerGroup(service, self._begin, lambda: time.monotonic() * FASTER)
        self.ended: BaseException | None = None
        self.stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _begin(self, worker: Worker) -> int:
        (self.folder / f"{worker.number}-{os.getpid()}").write_text(str(worker.port))
        return self._life(worker)

    def _run(self) -> None:
        try:
            self._group.run(self.stop)
        except BaseException as error:
            self.ended = error

    @contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self.stop.set()
            self.wait()

    def wait(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive()

    def begun(self, number: int) -> list[int]:
        """Processes that a worker has been, oldest first."""
        found = sorted(self.folder.glob(f"{number}-*"), key=lambda path: path.stat().st_mtime_ns)
        return [int(path.name.partition("-")[2]) for path in found]

    def ports(self) -> set[int]:
        return {int(path.read_text()) for path in self.folder.glob("*-*")}


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


def sleeping(_: Worker) -> int:
    time.sleep(60)
    return 0


def lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_worker_that_is_killed_is_started_again_and_the_others_go_on(tmp_path: Path) -> None:
    group = Group(tmp_path, sleeping, workers=3)
    with group.running():
        until(lambda: all(group.begun(number) for number in (1, 2, 3)))
        os.kill(group.begun(2)[0], signal.SIGKILL)
        until(lambda: len(group.begun(2)) == 2)
        assert [len(group.begun(number)) for number in (1, 2, 3)] == [1, 2, 1]
        alive = [group.begun(number)[-1] for number in (1, 2, 3)]
        assert all(lives(pid) for pid in alive)
        assert len(group.ports()) == 1  # all on the one that was free
        assert group.ports() != {0}
    assert not any(lives(pid) for pid in alive)
    assert group.ended is None


def test_one_that_dies_again_and_again_is_waited_for_longer_each_time(tmp_path: Path) -> None:
    def short(worker: Worker) -> int:
        return sleeping(worker) if worker.number == 1 else 3

    group = Group(tmp_path, short)
    with group.running():
        until(lambda: len(group.begun(2)) == 5)
        assert len(group.begun(1)) == 1
    times = [
        (group.folder / f"2-{pid}").stat().st_mtime_ns / 1e9 * FASTER for pid in group.begun(2)
    ]
    pauses = [after - before for before, after in zip(times, times[1:], strict=False)]
    assert all(p >= least for p, least in zip(pauses, (1, 2, 4, 8), strict=False))


def test_what_a_worker_refuses_at_its_first_start_ends_the_service(tmp_path: Path) -> None:
    group = Group(tmp_path, lambda one: REFUSED if one.number == 2 else sleeping(one))
    with group.running():
        group.wait()
    assert isinstance(group.ended, SystemExit)
    assert group.ended.code == 1
    assert not any(lives(pid) for pid in group.begun(1))


def test_a_full_disk_at_a_first_start_is_told_to_whoever_waits_for_room(tmp_path: Path) -> None:
    group = Group(tmp_path, lambda one: NO_ROOM if one.number == 2 else sleeping(one))
    with group.running():
        group.wait()
    assert isinstance(group.ended, OSError) and group.ended.errno == errno.ENOSPC
    assert not any(lives(pid) for pid in group.begun(1))


def test_where_there_is_no_room_for_a_process_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, refused = ForkProcess.start, []

    def scarce(process: ForkProcess) -> None:
        if process.name == "worker 2" and len(refused) < 2:
            refused.append(process)
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        start(process)

    monkeypatch.setattr(ForkProcess, "start", scarce)
    group = Group(tmp_path, sleeping)
    with group.running():
        until(lambda: group.begun(2))
        assert len(refused) == 2 and len(group.begun(1)) == 1
    assert group.ended is None


def test_a_worker_that_crashes_at_its_first_start_is_started_again(tmp_path: Path) -> None:
    def broken(worker: Worker) -> int:
        if worker.number == 1 or len(group.begun(2)) > 1:
            return sleeping(worker)
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    group = Group(tmp_path, broken)
    with group.running():
        until(lambda: len(group.begun(2)) == 2)
        assert len(group.begun(1)) == 1


def test_a_worker_that_does_not_end_when_told_to_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deaf(worker: Worker) -> int:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (tmp_path / f"deaf-{worker.number}").touch()
        return sleeping(worker)

    monkeypatch.setattr(worker_group, "STOP_SECONDS", 0.3)
    group = Group(tmp_path, deaf)
    with group.running():
        until(lambda: len(list(tmp_path.glob("deaf-*"))) == 2)
        pids = [*group.begun(1), *group.begun(2)]
    assert not any(lives(pid) for pid in pids)


def test_a_port_that_is_taken_is_said_before_any_worker_starts(tmp_path: Path) -> None:
    taken = listen("127.0.0.1", 0)
    taken.listen()
    service = Worker(
        ServiceConfig(workers=2),
        tmp_path,
        KafkaConnection(""),
        "",
        SearchConfig(),
        taken.getsockname()[1],
    )
    with pytest.raises(ServiceError, match="cannot listen"):
        WorkerGroup(service, sleeping).run(threading.Event())
    taken.close()


IMPORTED_LATE = """
import sys, threading, time
from pathlib import Path
import httpx
from deploy.commands import parts
from deploy.dashboard.routes import add_dashboard
from deploy.service import process
from deploy.service.config import ServiceConfig, Worker
from deploy.service.worker_group import share_what_is_imported
from indexer.search.config import SearchConfig
from streaming.kafka_clients import KafkaConnection

share_what_is_imported()
before = set(sys.modules)
data_dir, port, away = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
kafka = KafkaConnection(f"127.0.0.1:{away}")
worker = Worker(ServiceConfig(), data_dir, kafka, "sequences", SearchConfig(codes=4), port)
stop = threading.Event()
served = threading.Thread(
    target=process.run, args=(worker, stop, lambda _: None, add_dashboard)
)
served.start()
address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 30
while time.monotonic() < deadline:
    try:
        if httpx.get(address + "/ready").status_code == 200:
            break
    except httpx.HTTPError:
        pass
    time.sleep(0.1)
for path in ("/v1/retrieve", "/v1/explain"):
    assert httpx.post(address + path, json={"history": [1, 2], "k": 5}).status_code == 200
assert httpx.get(address + "/metrics").status_code == 200
stop.set()
served.join()
print(len([name for name in set(sys.modules) - before if not name.startswith("pydantic")]))
"""


def test_a_worker_imports_next_to_nothing_after_it_was_forked(
    shelf: Shelf, free_ports: Callable[[int], list[int]]
) -> None:
    shelf.publish(1)
    ran = subprocess.run(
        [sys.executable, "-c", IMPORTED_LATE, str(shelf.data_dir), *map(str, free_ports(2))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout.splitlines()[-1]) < 100, ran.stdout  # of some 2,500
