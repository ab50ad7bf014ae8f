"""The pipeline's MLflow, as it is started: no page of another origin or name reaches it."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from deploy.local.mlflow_server import MlflowServerConfig, mlflow_server_command

pytestmark = pytest.mark.end_to_end

ROOT = Path(__file__).resolve().parents[2]
CREATE = "/api/2.0/mlflow/registered-models/create"


def wait_for(config: MlflowServerConfig, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None
        try:
            httpx.get(f"{config.tracking_uri}/health").raise_for_status()
            return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise AssertionError("no answer")


@pytest.fixture(scope="module")
def address(
    tmp_path_factory: pytest.TempPathFactory, free_ports: Callable[[int], list[int]]
) -> Iterator[str]:
    config = MlflowServerConfig(port=free_ports(1)[0], hosts=("registry.example",))
    command = mlflow_server_command(config, tmp_path_factory.mktemp("mlflow"))
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        wait_for(config, process)
        yield config.tracking_uri
    finally:
        process.terminate()
        process.wait(30)


def test_only_its_own_names_are_answered(address: str) -> None:
    for path in ("/", "/health", "/version", "/api/2.0/mlflow/experiments/search?max_results=1"):
        for host in ("evil.example", "10.evil.example", "192.168.evil.example"):
            asked = httpx.get(address + path, headers={"Host": host})
            assert asked.status_code == 421, (path, host)
        for host in ("localhost", "registry.example:443", "10.0.0.7"):
            asked = httpx.get(address + path, headers={"Host": host})
            assert asked.status_code == 200, (path, host)


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://localhost:3000", "http://127.0.0.1:1", "null"]
)
def test_pages_of_other_origins_change_nothing(address: str, origin: str) -> None:
    refused = httpx.post(address + CREATE, json={"name": "m"}, headers={"Origin": origin})
    assert refused.status_code == 403


def test_its_own_page_and_programs_do(address: str) -> None:
    made = httpx.post(address + CREATE, json={"name": "a"}, headers={"Origin": address})
    assert made.status_code == 200
    assert httpx.post(address + CREATE, json={"name": "b"}).status_code == 200


def test_a_head_without_end_is_refused(address: str) -> None:
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        try:
            connection.sendall(b"GET / HTTP/1.1\r\nX: " + b"a" * 1_000_000)
        except OSError:
            return  # refused while it was still being sent
        assert b" 431 " in connection.recv(1000) or connection.recv(1000) == b""


def test_a_start_that_was_killed_while_the_database_was_made_is_begun_anew(
    tmp_path: Path, free_ports: Callable[[int], list[int]]
) -> None:
    config = MlflowServerConfig(port=free_ports(1)[0])
    command = mlflow_server_command(config, tmp_path)
    killed = subprocess.Popen(command, cwd=ROOT)
    deadline = time.monotonic() + 120
    while not any(f.stat().st_size > 200_000 for f in tmp_path.rglob("mlflow.db")):
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.001)
    killed.kill()
    killed.wait()
    again = subprocess.Popen(command, cwd=ROOT)
    try:
        wait_for(config, again)
        assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    finally:
        again.terminate()
        again.wait(30)
