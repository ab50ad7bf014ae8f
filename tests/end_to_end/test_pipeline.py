"""The whole pipeline through its one command: drained, killed, resumed, and asked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from deploy import settings as configuration
from deploy.monitoring.part_status import TYPES, read_status
from deploy.settings import ROOT
from tests.conftest import ODD_NAME

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]

EVENTS, USERS, ITEMS = 6_000, 400, 300
SPARC = [sys.executable, "-m", "deploy"]


class Run:
    """`sparc up` on a data directory of its own, as a subprocess."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.process: subprocess.Popen[str] | None = None

    def start(self, *options: str, **variables: str) -> None:
        environment = {
            **os.environ,
            "SPARC_REPLAY__SYNTHETIC__EVENTS": str(EVENTS),
            "SPARC_REPLAY__SYNTHETIC__USERS": str(USERS),
            "SPARC_REPLAY__SYNTHETIC__ITEMS": str(ITEMS),
            "SPARC_TRAINER__PUBLISH__EVENTS": "1500",
            "PYTHONDONTWRITEBYTECODE": "",
            **variables,
        }
        self.process = subprocess.Popen(
            [*SPARC, "up", "--data-dir", str(self.data_dir), *options],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self, timeout: float = 600.0) -> tuple[int, str]:
        assert self.process is not None
        output, _ = self.process.communicate(timeout=timeout)
        return self.process.returncode, output

    def stop(self) -> None:
        """End what is left of it."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(120)
            except subprocess.TimeoutExpired:
                self.process.kill()

    def summary(self) -> dict[str, Any]:
        code, output = self.end()
        assert code == 0, output[-4000:]
        return json.loads(output.splitlines()[-1])

    def status(self, part: str) -> dict[str, Any]:
        return read_status(self.data_dir, TYPES[part]).to_json()

    def pids(self, *words: str) -> list[int]:
        """Processes of this run whose command line holds all the words."""
        assert self.process is not None
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                line = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if all(word in line for word in words):
                found.append(process.pid)
        return found


@pytest.fixture(scope="module")
def run(jars: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    started = Run(tmp_path_factory.mktemp("pipeline") / ODD_NAME)
    yield started
    started.stop()


def eventually(what: Callable[[], Any], run: Run, seconds: float = 240.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (seen := what()):
        assert run.process is not None
        assert run.process.poll() is None, run.end()[1][-4000:]
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.2)
    return seen


def check(summary: dict[str, Any]) -> None:
    assert summary["events_read"] == summary["clicks_produced"] == EVENTS
    assert summary["lost"] == 0
    assert summary["sequences"] == summary["trained_events"]
    assert (
        summary["sequences"] + summary["late"] + summary["duplicates"] + summary["dead_letters"]
        == EVENTS
    )
    assert summary["catalogue_items"] == summary["indexed_items"] == ITEMS
    assert summary["snapshots_published"] > 3
    assert summary["registered_versions"] >= summary["snapshots_published"]
    assert summary["codes_in_use"] > 0.95 * summary["codes"]
    assert summary["peak_memory_gib"] < 8


def test_a_drain_with_every_part_killed_once_loses_nothing(run: Run) -> None:
    run.start("--drain")
    eventually(lambda: run.status("train").get("trained_events", 0) > 500, run)
    for words in (
        ("deploy train",),
        ("deploy index",),
        ("deploy serve",),
        ("taskexecutor.TaskManagerRunner",),
    ):
        for pid in run.pids(*words):
            os.kill(pid, signal.SIGKILL)
    assert run.process is not None
    children = psutil.Process(run.process.pid).children(recursive=True)
    summary = run.summary()
    check(summary)
    assert not [p for p in children if p.is_running()]


def test_a_second_start_serves_the_last_champion_and_answers_like_the_registry(run: Run) -> None:
    before = run.status("index")["version"]
    run.start()
    settings = eventually(
        lambda: (
            (run.data_dir / configuration.CONFIG).is_file()
            and configuration.load(None, run.data_dir)
        ),
        run,
    )
    address = f"http://127.0.0.1:{settings.ports.service}"

    def health() -> dict[str, Any] | None:
        try:
            answer = httpx.get(f"{address}/health", timeout=2.0).json()
        except (httpx.HTTPError, ValueError):
            return None
        return answer if answer["ready"] else None

    began = time.monotonic()
    assert eventually(health, run)["version"] == before
    seconds = time.monotonic() - began
    print(f"served again after {seconds:.1f} s")

    asked = subprocess.run(
        [*SPARC, "retrieve", "--data-dir", str(run.data_dir), "--history", "1,2,3", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    answer = json.loads(asked.stdout)
    assert len(answer["items"]) == 50
    assert answer["searched"][0]["probability"] > 0

    def registry_up() -> bool:
        try:
            return httpx.get(f"{settings.tracking_uri}/health", timeout=2.0).status_code == 200
        except httpx.HTTPError:
            return False

    eventually(registry_up, run)
    code = (
        "import json, mlflow, pandas as pd\n"
        f"mlflow.set_tracking_uri({settings.tracking_uri!r})\n"
        "model = mlflow.pyfunc.load_model('models:/sparc@champion')\n"
        "row = {'history': [[1, 2, 3]], 'k': [50], 'now_ms': [%d]}\n"
        "print(json.dumps(list(map(int, model.predict(pd.DataFrame(row))['items'][0]))))"
    )
    predicted = subprocess.run(
        [sys.executable, "-c", code % answer["now_ms"]],
        cwd=run.data_dir,
        capture_output=True,
        text=True,
    )
    assert predicted.returncode == 0, predicted.stderr[-2000:]
    assert json.loads(predicted.stdout.splitlines()[-1]) == [
        item["item_id"] for item in answer["items"]
    ]

    listed = subprocess.run(
        [*SPARC, "snapshots", "--data-dir", str(run.data_dir), "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "champion" in json.loads(listed.stdout)[-1]["aliases"]

    assert run.process is not None
    children = psutil.Process(run.process.pid).children(recursive=True)
    run.process.send_signal(signal.SIGINT)
    code_, output = run.end(120)
    assert code_ == 0, output[-4000:]
    assert not [p for p in children if p.is_running()]


def test_a_drain_of_what_is_drained_already_gives_the_same_totals(run: Run) -> None:
    run.start("--drain")
    check(run.summary())
