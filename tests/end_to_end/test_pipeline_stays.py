"""The whole pipeline while a part of it is down, or its disk is full: answers go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy import settings as configuration
from deploy.settings import ROOT
from tests.end_to_end.test_pipeline import EVENTS, SPARC, Run, check, eventually

pytestmark = [pytest.mark.end_to_end, pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture
def started(jars: Path) -> Iterator[list[Run]]:
    runs: list[Run] = []
    yield runs
    for run in runs:
        if run.process is not None and run.process.poll() is None:
            run.process.send_signal(signal.SIGTERM)
            try:
                run.process.wait(150)
            except subprocess.TimeoutExpired:
                run.process.kill()


def answered(run: Run) -> dict[str, Any]:
    """An answer of the service; fails if there is none."""
    port = configuration.load(None, run.data_dir).ports.service
    answer = httpx.post(
        f"http://127.0.0.1:{port}/v1/retrieve", json={"user_id": 1, "k": 5}, timeout=15
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def status(run: Run) -> dict[str, Any]:
    """What `sparc status` says."""
    asked = subprocess.run(
        [*SPARC, "status", "--data-dir", str(run.data_dir), "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert asked.returncode == 0, asked.stderr
    return json.loads(asked.stdout)


def test_a_part_that_fails_takes_no_other_down_and_is_named_at_the_end(
    started: list[Run], tmp_path: Path
) -> None:
    run = Run(tmp_path / "state")
    started.append(run)
    run.start()
    eventually(lambda: run.status("serve").get("version"), run)
    eventually(lambda: run.status("register").get("registered_versions"), run)
    ledger = run.data_dir / "registry" / "registered.json"
    (victim,) = run.pids("deploy register")
    os.kill(victim, signal.SIGKILL)
    ledger.write_text("{", encoding="utf-8")

    def failed() -> dict[str, Any]:
        return status(run)["failed"].get("register") or {}

    failure = eventually(lambda: (f := failed()).get("state") == "failed" and f, run)
    assert "registered.json: malformed" in failure["why"]
    assert failure["next_try_seconds"] <= 30
    # the rest learns and answers to the end of the log
    eventually(lambda: run.status("train").get("trained_events") == EVENTS, run)
    eventually(lambda: run.status("train").get("caught_up"), run)
    assert answered(run)["items"]

    eventually(lambda: failed().get("attempts") == 2, run)  # it was tried again, and failed again
    assert run.process is not None
    run.process.send_signal(signal.SIGINT)
    code, output = run.end(150)
    assert code == 1
    last = output.splitlines()[-1]
    assert last.startswith(f"error: register failed: {ledger}: malformed")


def test_on_a_full_disk_everything_waits_but_the_answers_and_then_goes_on(
    started: list[Run], small_disk
) -> None:
    disk = small_disk(1600)
    run = Run(disk.path / "state")
    started.append(run)
    run.start("--rate", "60")
    eventually(lambda: run.status("serve").get("version"), run)
    eventually(lambda: run.status("register").get("registered_versions"), run)
    learnt = run.status("train")["trained_events"]
    disk.fill()
    full_until = time.monotonic() + 90
    while time.monotonic() < full_until:
        assert run.process is not None
        assert run.process.poll() is None, run.end()[1][-4000:]
        assert answered(run)["items"]
        time.sleep(1)
    said = status(run)
    assert said["disk"]["problem"].startswith("the disk is full: ")
    assert said["parts"]["serve"]["alive"]
    disk.clear()
    eventually(lambda: run.status("train").get("trained_events", 0) > learnt + 500, run)
    eventually(lambda: run.status("replay").get("done"), run)
    eventually(lambda: run.status("register").get("caught_up"), run)
    assert not status(run)["failed"]
    assert run.process is not None
    run.process.send_signal(signal.SIGINT)
    code, output = run.end(150)
    assert code == 0, output[-4000:]
    assert "the disk is full" in output

    run.start("--drain")
    check(run.summary())
