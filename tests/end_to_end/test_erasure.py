"""One of a hundred users is forgotten, after parts were killed: every file, topic and family."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from deploy import settings as configuration
from deploy.settings import ROOT
from streaming.committed_topic import read_all
from streaming.events import Click
from streaming.ids import numeric_id
from tests.end_to_end.test_pipeline import SPARC, Run, eventually

pytestmark = [pytest.mark.end_to_end, pytest.mark.slow, pytest.mark.timeout(1200)]

EVENTS = 6000
USER = "user-42"


@pytest.fixture
def run(jars: Path, tmp_path: Path) -> Iterator[Run]:
    started = Run(tmp_path / "state")
    yield started
    started.stop()


def sparc(run: Run, *words: str) -> subprocess.CompletedProcess[str]:
    command = [*SPARC, *words, "--data-dir", str(run.data_dir)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def found(run: Run, user: str) -> list[dict[str, Any]]:
    """What `sparc forget --verify` finds, without the log that was replayed."""
    asked = sparc(run, "forget", "--verify", user, "--json")
    assert asked.returncode in (0, 1), asked.stderr
    places = [json.loads(line) for line in asked.stdout.splitlines() if line.startswith("{")]
    return [one for one in places if not one["place"].startswith("replay/")]


def files_with(folder: Path, *needles: bytes) -> list[str]:
    """Every file below, as it is on disk, but for the log that was replayed."""
    hits = []
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and folder / "replay" not in path.parents:
            with suppress(FileNotFoundError):
                content = path.read_bytes()
                hits += [f"{path.relative_to(folder)}: {n!r}" for n in needles if n in content]
    return hits


def test_nothing_of_a_user_who_was_forgotten_is_left(run: Run, tmp_path: Path) -> None:
    log = tmp_path / "events.csv"
    random = np.random.default_rng(3)
    lines = [
        f"user-{random.integers(100)},item-{random.zipf(1.3) % 200},{1_400_000_000 + 60 * n}"
        for n in range(EVENTS)
    ]
    log.write_text("\n".join(["user_id,item_id,time", *lines]) + "\n", encoding="utf-8")
    run.start(
        *("--events", str(log)),
        SPARC_SERVICE__WORKERS="2",
        SPARC_SERVICE__ANSWERS__SECONDS="2",
    )
    eventually(lambda: run.status("serve").get("version"), run)
    for part in ("deploy train", "deploy serve"):
        os.kill(run.pids(part)[0], signal.SIGKILL)
    (job,) = run.pids("TaskManagerRunner")
    os.kill(job, signal.SIGKILL)
    eventually(lambda: run.status("train").get("trained_events") == EVENTS, run)
    settings = configuration.load(None, run.data_dir)
    kafka, topics = settings.kafka_connection, settings.kafka.topics()
    number = numeric_id(USER)
    (staged,) = (run.data_dir / "replay").glob("log-*/events.parquet")
    rows = pq.read_table(staged).filter(pc.field("user_id") == number)
    events = [event.encode() for event in rows["event_id"].to_pylist()]
    assert len(events) > 5
    service = f"http://127.0.0.1:{settings.ports.service}"

    def known() -> set[bool]:
        asked = {"user_id": USER, "k": 3}
        with httpx.Client() as http:
            return {
                http.post(f"{service}/v1/retrieve", json=asked, timeout=20).json()["known_user"]
                for _ in range(5)
            }

    eventually(lambda: known() == {True}, run)
    places = {one["place"] for one in found(run, USER)}
    assert {"topic clicks", "topic sequences", "service/histories"} <= places
    assert any(place.startswith("trainer/checkpoints/") for place in places)
    assert any(place.startswith("checkpoints/") for place in places)
    answer = httpx.delete(f"{service}/v1/users/{USER}", timeout=20)
    assert answer.status_code == 200, answer.text
    assert known() == {False}

    def in_topics_only() -> bool:
        left = {one["place"] for one in found(run, USER)}
        return all(place.startswith(("topic ", "service/")) for place in left)

    eventually(in_topics_only, run)
    purged = sparc(run, "purge", "--yes")
    assert purged.returncode == 0, purged.stderr
    eventually(lambda: found(run, USER) == [], run, 300)
    for topic in topics.of_users():
        for record in read_all(kafka, topic):
            assert b"%d" % number != record.key
            assert not any(event in record.value for event in events)
    others = [Click.from_bytes(r.value) for r in read_all(kafka, topics.clicks)]
    assert all(click.user_id != number for click in others)
    big, little = (number.to_bytes(8, order, signed=True) for order in ("big", "little"))
    needles = [b"%d" % number, USER.encode() + b'"', big, little, *events]
    try:
        eventually(lambda: files_with(run.data_dir, *needles) == [], run, 400)
    except AssertionError as error:
        raise AssertionError(files_with(run.data_dir, *needles)[:20]) from error
    assert known() == {False}
    assert run.process is not None
    run.process.send_signal(signal.SIGINT)
    code, output = run.end(150)
    assert code == 0, output[-4000:]
