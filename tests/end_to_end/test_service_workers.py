"""`sparc serve` with several workers, killed in every way: answers go on, and nobody is left."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import orjson
import psutil
import pytest

from deploy.service.workers import noted
from deploy.settings import ROOT
from tests.deploy.snapshot_maker import Shelf, make_snapshots

pytestmark = pytest.mark.end_to_end


class Served:
    """`sparc serve` with two workers, without Kafka."""

    def __init__(self, data_dir: Path, port: int, away: int) -> None:
        self.data_dir, self.port = data_dir, port
        self.log = data_dir.with_name("serve.log")
        with self.log.open("ab") as output:
            self.process = psutil.Popen(
                [sys.executable, "-m", "deploy", "serve", "--data-dir", str(data_dir)],
                cwd=ROOT,
                env=os.environ
                | {
                    "SPARC_PORTS__SERVICE": str(port),
                    "SPARC_KAFKA__BOOTSTRAP": f"127.0.0.1:{away}",
                    "SPARC_SERVICE__WORKERS": "2",
                },
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def workers(self) -> list[psutil.Process]:
        """By when they began."""
        return sorted(self.process.children(), key=lambda one: (one.create_time(), one.pid))

    def asks(self) -> bool:
        """Whether queries are answered, over a connection of their own each."""
        address = f"http://127.0.0.1:{self.port}"
        try:
            body = {"history": [1, 2], "k": 3}
            return all(
                httpx.post(f"{address}/v1/retrieve", json=body, timeout=5).status_code == 200
                for _ in range(8)
            )
        except httpx.HTTPError:
            return False

    def said(self, event: str) -> list[dict[str, Any]]:
        """Lines of the log."""
        lines = self.log.read_bytes().splitlines()
        said = [orjson.loads(line) for line in lines if line.startswith(b"{")]
        return [line for line in said if line["event"] == event]

    def is_up(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()[-2000:]
        return len(noted(self.data_dir)) == 2 and self.asks()


def until(true: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.1)


@pytest.fixture
def served(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, free_ports: Callable[[int], list[int]]
) -> Iterator[Served]:
    made = tmp_path_factory.mktemp("made")
    make_snapshots(made, 1)
    Shelf(tmp_path / "state", made).publish(1)
    one = Served(tmp_path / "state", *free_ports(2))
    family = [one.process]
    try:
        until(one.is_up)
        family += one.workers
        yield one
    finally:
        with suppress(psutil.NoSuchProcess):
            family += one.workers
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        one.process.wait()


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_killed_worker_comes_back_while_the_other_answers(served: Served) -> None:
    for place in (1, 0):  # the second worker, then the first
        killed, other = served.workers[place], served.workers[1 - place]
        killed.kill()
        until(lambda killed=killed: not killed.is_running())
        assert served.asks()  # by who is left
        until(lambda starts=4 - place: len(served.said("service up")) == starts)
        assert other.is_running()
    until(served.is_up)
    status = orjson.loads((served.data_dir / "status" / "serve.json").read_bytes())
    assert status["pid"] in {one.pid for one in served.workers}
    ended = [(line["worker"], line["exit_code"]) for line in served.said("worker ended")]
    assert ended == [(2, -9), (1, -9)]
    # together they are not much more than one: what was imported is there once
    sizes = [one.memory_full_info().pss for one in (served.process, *served.workers)]
    assert sum(sizes) < 1.5 * served.process.memory_info().rss, sizes


def test_killed_by_force_it_leaves_no_worker_and_no_port(served: Served) -> None:
    workers = served.workers
    served.process.kill()
    gone, left = psutil.wait_procs(workers, timeout=10)
    assert left == []
    assert is_free(served.port)


def test_told_to_end_it_ends_with_all_workers(served: Served) -> None:
    workers = served.workers
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(20) == 0
    assert not any(one.is_running() for one in workers)
    assert is_free(served.port)
    assert b"Traceback" not in served.log.read_bytes()
