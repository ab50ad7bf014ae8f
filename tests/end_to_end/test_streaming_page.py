"""Every command of docs/STREAMING.md, as it is written there, on a real broker and cluster."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.settings import ROOT
from tests.streaming.job.job_process import Process
from tests.streaming.job.live_stream import LiveStream
from tests.streaming.made_clicks import click
from tests.streaming.oracle import Record

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(600)]

PAGE = (ROOT / "docs" / "STREAMING.md").read_text()
COMMANDS = [
    line[2:].partition("  #")[0].strip()
    for block in re.findall(r"```console\n(.*?)```", PAGE, re.S)
    for line in block.splitlines()
    if line.startswith("$ ")
]
NAME = "page"
HERE_ONLY = ("sparc up",)
"""Starts a broker and a cluster of its own; tests/end_to_end/test_pipeline.py runs it."""


@pytest.fixture
def stream(kafka_broker, flink_cluster, tmp_path) -> Iterator[LiveStream]:
    stream = LiveStream(kafka_broker, flink_cluster, tmp_path, NAME)
    yield stream
    stream.cancel()


def test_every_command_does_what_the_page_says(stream, tmp_path, monkeypatch):
    for name, value in {
        "SPARC_DATA_DIR": str(tmp_path),
        "SPARC_KAFKA__BOOTSTRAP": stream.broker.bootstrap,
        "SPARC_KAFKA__PREFIX": stream.topics.clicks.removesuffix("clicks"),
        "SPARC_STREAMING__NAME": NAME,
        "SPARC_STREAMING__SAVEPOINT_TIMEOUT_S": "60",
        "SPARC_FLINK__ADDRESS": stream.cluster.address,
        **{
            f"SPARC_FLINK__SECURITY__{name.upper()}": path
            for name, path in stream.cluster.section["security"].items()
        },
        "SPARC_FLINK__CHECKPOINTS": (tmp_path / "checkpoints").as_uri(),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "sparc.toml").write_text("[streaming]\ndedup_horizon = 100\n")
    broken = [click(1, 1, 10**12 + n, event_id=f"{n}") for n in range(17)]
    wrong_type = Record(b"1", (broken[0].value or b"").replace(b'"user_id":1', b'"user_id":"1"'), 0)
    no_key = Record(None, broken[1].value, broken[1].timestamp)
    stream.send([wrong_type] * 10 + [no_key] * 10)

    keeper: Process | None = None
    said: dict[str, str] = {}
    try:
        for command in COMMANDS:
            if command in HERE_ONLY:
                continue
            if command.startswith("kubectl"):  # its manifests: tests/deploy/test_kubernetes.py
                assert (ROOT / command.split()[-1] / "kustomization.yaml").is_file()
                continue
            command = re.sub(r"--flink \S+", f"--flink {stream.cluster.address}", command)
            if re.match(r"sparc stream( --|$)", command):
                if keeper:
                    assert keeper.stop() == 0
                words = command.replace("sparc.toml", str(tmp_path / "sparc.toml")).split()
                keeper = Process(words, tmp_path / "keeper.log")
                stream.wait(lambda k=keeper: _runs(tmp_path, k))
                continue
            done = subprocess.run(
                ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=300
            )
            assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
            said[command] = done.stdout
    finally:
        if keeper:
            keeper.stop()
    assert " runs from file:" in said["sparc stream upgrade"]
    listed = said["sparc dlq list"]
    assert re.search(r"10\s+user_id: a string, which needs schema_version 2", listed)
    assert re.search(r"10\s+key: missing", listed)
    assert len((tmp_path / "letters.jsonl").read_text().splitlines()) == 10
    sent = [text.split()[0] for command, text in said.items() if "dlq replay" in command]
    assert sent == ["10", "10", "2"]


def _runs(folder: Path, keeper: Process) -> bool:
    assert keeper.running, keeper.said()[-2000:]
    try:
        status = json.loads((folder / "status" / "stream.json").read_text())
    except (OSError, ValueError):
        return False
    return status.get("job_state") == "RUNNING" and status.get("lag") == 0
