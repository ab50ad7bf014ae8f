from __future__ import annotations

import socket
from pathlib import Path

import pytest

from deploy.ports import NAMES, PortError, Ports, allocate


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
