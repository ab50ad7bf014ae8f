"""The ranks of a trainer as processes: they live and die as one, and nobody else gets in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from deploy.commands import trainer_group

ROOT = Path(__file__).parents[3]
BODY = """
import os, sys, time
from deploy.commands import trainer_group
from deploy.commands.console import configure_logging
from model.ranks import joined

def work(place):
    with joined(place) as ranks:
        print(ranks.rank, ranks.collect(b"%d" % ranks.rank), os.getpid(), flush=True)
        WORK

configure_logging("info")
trainer_group.run(3, "info", lambda: READY, work)
"""


@contextmanager
def group(work: str, ready: str = "True") -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [sys.executable, "-c", BODY.replace("WORK", work).replace("READY", ready)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def ranks(child: subprocess.Popen[str]) -> list[psutil.Process]:
    """Its ranks, once all of them have met."""
    assert child.stdout is not None
    said = sorted(child.stdout.readline().rsplit(" ", 1) for _ in range(3))
    assert [what for what, _ in said] == ["0 [b'0', b'1', b'2']", "1 []", "2 []"]
    return [psutil.Process(int(pid)) for _, pid in said]


@pytest.mark.parametrize("killed", [0, 2])
def test_without_one_of_them_all_end_and_they_listen_on_the_loopback(killed: int) -> None:
    with group("time.sleep(60)") as child:
        processes = ranks(child)
        assert processes[0].pid == child.pid
        for one in processes:
            listening = [c for c in one.net_connections("inet") if c.status == "LISTEN"]
            assert all(c.laddr.ip in ("127.0.0.1", "::1") for c in listening)
        processes[killed].kill()
        assert child.wait(20) == (-signal.SIGKILL if killed == 0 else trainer_group.LOST)
        _, alive = psutil.wait_procs(processes, 10)
        assert not alive
        assert child.stderr is not None
        assert ("a rank ended" in child.stderr.read()) == (killed != 0)


def test_they_end_when_the_leader_has_done_its_work() -> None:
    with group("ranks.tell(b'end' if ranks.leads else None)") as child:
        processes = ranks(child)
        assert child.wait(20) == 0
        assert not any(one.is_running() for one in processes[1:])


def test_nobody_waits_for_a_leader_that_is_not_to_begin() -> None:
    with group("", "False") as child:
        said, _ = child.communicate(timeout=20)
        assert (child.returncode, said) == (0, "")


def test_torchrun_says_who_is_who(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    places: list[object] = []
    trainer_group.run(1, "info", lambda: True, places.append)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    trainer_group.run(1, "info", lambda: False, places.append)
    alone = trainer_group.HERE
    assert places == [alone, trainer_group.Place(3, 4, 1, 2, "env://")]
    with pytest.raises(ValueError, match="trainer.workers is 2, but torchrun started 4"):
        trainer_group.run(2, "info", lambda: True, places.append)
