"""Ports of the local processes: given by configuration, or the first free ones of a range."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass, fields, replace
from pathlib import Path

from model.manifest import write_atomically


class PortError(RuntimeError):
    """A configured port is taken, or the range holds too few free ones."""


@dataclass(frozen=True)
class Ports:
    """Ports on 127.0.0.1; 0 means: the first free one of the range.

    Attributes:
        first: start of the range that is searched.
        count: length of that range.
        kafka: the broker's client listener.
        kafka_controller: the broker's KRaft listener.
        flink_rest: JobManager's REST API and web page.
        flink_rpc: JobManager's RPC.
        flink_blob: JobManager's blob server.
        flink_task_manager: TaskManager's RPC.
        flink_data: TaskManager's data exchange.
        mlflow: MLflow's API and web page.
        service: the retrieval service.
    """

    first: int = 29_090
    count: int = 200
    kafka: int = 0
    kafka_controller: int = 0
    flink_rest: int = 0
    flink_rpc: int = 0
    flink_blob: int = 0
    flink_task_manager: int = 0
    flink_data: int = 0
    mlflow: int = 0
    service: int = 0


NAMES = tuple(f.name for f in fields(Ports) if f.name not in ("first", "count"))


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen on `port` now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def allocate(ports: Ports, remembered: Path | None = None) -> Ports:
    """Fill every 0 with a free port, the one of the last run (`remembered`) where it is free.

    Raises:
        PortError: naming the part and the port that is in use, or the exhausted range.
    """
    last: dict[str, int] = {}
    if remembered is not None and remembered.is_file():
        try:
            last = json.loads(remembered.read_text(encoding="utf-8"))
        except ValueError:
            last = {}
    taken: dict[str, int] = {}
    for name in NAMES:
        if port := getattr(ports, name):
            if not is_free(port):
                raise PortError(
                    f"port {port} of {name} is in use; stop what listens there, or choose another "
                    f"one with SPARC_PORTS__{name.upper()} or [ports] {name} in the configuration"
                )
            taken[name] = port
    candidates = iter(range(ports.first, ports.first + ports.count))
    for name in NAMES:
        if name in taken:
            continue
        port = last.get(name, 0)
        if not port or port in taken.values() or not is_free(port):
            port = next((p for p in candidates if p not in taken.values() and is_free(p)), 0)
            if not port:
                raise PortError(
                    f"no free port for {name} between {ports.first} and "
                    f"{ports.first + ports.count - 1}; choose another range with [ports] first"
                )
        taken[name] = port
    if remembered is not None:
        write_atomically(remembered, json.dumps(taken).encode())
    return replace(ports, **taken)
