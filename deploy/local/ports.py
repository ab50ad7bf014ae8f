"""Ports of the local processes: given by configuration, or the first free ones of a range.

Between the moment when a port is found free and the one when a part listens on it lie seconds, a
minute on a slow machine. Against another pipeline a `Reservation` helps, a lock for each port;
against everybody else only a look at who listens when a part cannot (`taken_by_another`), and
another port.
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from deploy.settings import Ports
from streaming.durable_files import write_atomically


class PortError(RuntimeError):
    """A configured port is taken, or the range holds too few free ones."""


class PortTaken(PortError):
    """Another process listens on a port that was free when it was chosen: take another one."""

    def __init__(self, name: str, port: int) -> None:
        super().__init__(
            f"port {port} of {name} was taken by another process meanwhile; start again, or choose "
            f"another one with SPARC_PORTS__{name.upper()} or [ports] {name} in the configuration"
        )
        self.name = name
        self.port = port


NAMES = tuple(f.name for f in fields(Ports) if f.name not in ("first", "count"))


def chosen(ports: Ports) -> dict[str, int]:
    """The ports by name, without those that are not chosen yet."""
    return {name: port for name in NAMES if (port := getattr(ports, name))}


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen on `port` now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


class Reservation(ExitStack):
    """Ports that no other pipeline of this user is given until this one ends, however it ends."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.gettempdir()) / f"sparc-ports-{os.geteuid()}"
        self.held: set[int] = set()

    def take(self, port: int) -> bool:
        """Reserve a port; False where another pipeline has it. Idempotent."""
        if port not in self.held:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            try:
                self.enter_context(FileLock(self.folder / str(port)).acquire(timeout=0))
            except (Timeout, OSError):
                return False
            self.held.add(port)
        return True


def allocate(
    ports: Ports,
    remembered: Path | None = None,
    reservation: Reservation | None = None,
    avoid: Collection[int] = (),
) -> Ports:
    """Fill every 0 with a free port, the one of the last run (`remembered`) where it is free.

    Args:
        ports: as configured.
        remembered: file with those of the last run; written anew.
        reservation: keeps other pipelines from them.
        avoid: ports that are not given.

    Raises:
        PortError: naming the part and the port that is in use, or the exhausted range.
    """
    last: dict[str, int] = {}
    if remembered is not None and remembered.is_file():
        try:
            last = json.loads(remembered.read_text(encoding="utf-8"))
        except ValueError:
            last = {}

    def is_ours(port: int) -> bool:
        return is_free(port) and (reservation is None or reservation.take(port))

    taken: dict[str, int] = {}
    for name in NAMES:
        if port := getattr(ports, name):
            if not is_ours(port):
                raise PortError(
                    f"port {port} of {name} is in use; stop what listens there, or choose another "
                    f"one with SPARC_PORTS__{name.upper()} or [ports] {name} in the configuration"
                )
            taken[name] = port
    candidates = iter(range(ports.first, ports.first + ports.count))
    for name in NAMES:
        if name in taken:
            continue
        out = {*taken.values(), *avoid}
        port = last.get(name, 0)
        if not port or port in out or not is_ours(port):
            port = next((p for p in candidates if p not in out and is_ours(p)), 0)
            if not port:
                raise PortError(
                    f"no free port for {name} between {ports.first} and "
                    f"{ports.first + ports.count - 1}; choose another range with [ports] first"
                )
        taken[name] = port
    if remembered is not None:
        write_atomically(remembered, json.dumps(taken).encode())
    return replace(ports, **taken)


def taken_by_another(ports: Mapping[str, int], own: Collection[int]) -> PortTaken | None:
    """The first of the ports, by name, on which a process listens that is none of `own` (pids)."""
    names = {port: name for name, port in ports.items()}
    try:
        sockets = psutil.net_connections("tcp")
    except psutil.AccessDenied:  # macOS shows them to root alone
        return None
    for one in sockets:
        listens = one.status == psutil.CONN_LISTEN and one.laddr.port in names
        if listens and one.pid not in own:
            return PortTaken(names[one.laddr.port], one.laddr.port)
    return None
