from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local.ports import NAMES, PortError, Reservation, allocate, taken_by_another
from deploy.settings import Ports


def test_every_part_gets_a_free_port_of_its_own(tmp_path: Path) -> None:
    ports = allocate(Ports(first=31_000, count=500))
    given = [getattr(ports, name) for name in NAMES]
    assert len(set(given)) == len(NAMES)
    assert all(31_000 <= port < 31_500 for port in given)


def test_a_second_start_keeps_the_ports_of_the_first(tmp_path: Path) -> None:
    remembered = tmp_path / "ports.json"
    first = allocate(Ports(first=31_000, count=500), remembered)
    with socket.socket() as other:  # shifts what would be found first
        other.bind(("127.0.0.1", 0))
        assert allocate(Ports(first=31_100, count=500), remembered).kafka == first.kafka


def test_a_configured_port_in_use_names_the_part_and_the_remedy() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(
            PortError, match=rf"port {port} of mlflow is in use.*SPARC_PORTS__MLFLOW"
        ):
            allocate(Ports(mlflow=port))


def test_an_exhausted_range_is_named() -> None:
    with pytest.raises(PortError, match="no free port for .* between 31000 and 31002"):
        allocate(Ports(first=31_000, count=3))


def test_a_damaged_memory_of_ports_is_no_obstacle(tmp_path: Path) -> None:
    remembered = tmp_path / "ports.json"
    remembered.write_text("{half", encoding="utf-8")
    assert allocate(Ports(first=31_000, count=500), remembered).service


ALLOCATE = """
import sys
from deploy.local.ports import NAMES, Reservation, allocate
from deploy.settings import Ports
with Reservation() as reservation:
    ports = allocate(Ports(first=30_000, count=100), None, reservation)
    print(*(getattr(ports, name) for name in NAMES), flush=True)
    sys.stdin.read()
"""


def test_two_pipelines_that_start_at_once_get_ports_of_their_own(tmp_path: Path) -> None:
    given, running = [], []
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", ALLOCATE],
            env={**os.environ, "TMPDIR": str(tmp_path)},
            cwd=Path(__file__).resolve().parents[3],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        running.append(process)
    for process in running:
        assert process.stdout is not None
        given.append({int(port) for port in process.stdout.readline().split()})
    assert len(given[0]) == len(given[1]) == len(NAMES)
    assert not given[0] & given[1]
    for process in running:  # however it ends, its ports are free for the next one
        process.kill()
        process.wait()
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()
        process.stdout.close()


def test_a_reservation_that_ended_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    remembered = tmp_path / "ports.json"
    with Reservation() as first:
        ports = allocate(Ports(first=31_000, count=500), remembered, first)
        with Reservation() as second:
            other = allocate(Ports(first=31_000, count=500), None, second)
            assert other.kafka != ports.kafka
    with Reservation() as third:
        assert allocate(Ports(first=31_000, count=500), remembered, third) == ports


def test_a_port_to_avoid_is_not_given_again(tmp_path: Path) -> None:
    remembered = tmp_path / "ports.json"
    first = allocate(Ports(first=31_000, count=500), remembered)
    second = allocate(Ports(first=31_000, count=500), remembered, avoid=[first.mlflow])
    assert second.mlflow != first.mlflow
    assert second.kafka == first.kafka


def test_who_listens_on_a_port_of_ours_is_seen() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        taken = taken_by_another({"mlflow": port}, own=[])
        assert taken is not None
        assert (taken.name, taken.port) == ("mlflow", port)
        assert "SPARC_PORTS__MLFLOW" in str(taken)
        assert taken_by_another({"mlflow": port}, own=[os.getpid()]) is None
    assert taken_by_another({"mlflow": port}, own=[]) is None
