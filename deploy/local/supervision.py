"""The local processes under supervisord: started together, restarted when killed, stopped in order.

supervisord is the process manager; this module writes its configuration and speaks its XML-RPC
over a unix socket that only the user may open.
"""

from __future__ import annotations

import configparser
import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ServerProxy

import psutil
from supervisor.xmlrpc import SupervisorTransport

from deploy.parent_death import end_with_parent
from deploy.private import UMASK
from streaming.temporary import make_temporary

SOCKET = "SUPERVISOR_SOCKET"
LONGEST_SOCKET = 100
"""Bytes of a unix socket's path; Linux takes 107, other systems a few less."""


class SupervisionError(RuntimeError):
    """The process manager did not start, or is gone."""


@dataclass(frozen=True)
class Program:
    """One supervised process.

    Attributes:
        name: what the log, the status and the progress display call it.
        command: arguments; the first is an absolute path.
        directory: where it runs; by default where the logs lie.
        one_shot: ends by itself, with exit code 0 when done and 1 when it gives up; only a crash
            (any other end) restarts it.
        nice: how far it stands back when the cores are busy, as for nice(1).
        stop_seconds: grace between SIGTERM and SIGKILL.
        start_seconds: a process that ends earlier failed to start.
    """

    name: str
    command: Sequence[str]
    directory: Path | None = None
    one_shot: bool = False
    nice: int = 0
    stop_seconds: int = 20
    start_seconds: int = 8


@dataclass(frozen=True)
class ProcessState:
    """What supervisord knows of one program: `state` is its word (RUNNING, BACKOFF, FATAL, ...)."""

    name: str
    state: str
    pid: int
    exit_status: int
    log: Path
    one_shot: bool


def _quote(argument: str) -> str:
    # supervisord splits with shlex and expands %(name)s. Behind a space, `;` and `#` would begin a
    # comment, so that none is left there: the quotes are closed and opened again.
    escaped = argument.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return '"' + escaped.replace(";", '"";').replace("#", '""#') + '"'


def _with_nice(program: Program) -> list[str]:
    nice = shutil.which("nice")
    prefix = [nice, "-n", str(program.nice)] if nice and program.nice else []
    return [*prefix, *program.command]


def _variable(program: Program) -> str:
    return f"DIRECTORY_OF_{program.name.upper().replace('-', '_')}"


def directories(programs: Sequence[Program]) -> dict[str, str]:
    """Variables of supervisord's environment that its configuration takes directories from."""
    return {_variable(p): str(p.directory) for p in programs if p.directory is not None}


def configuration(programs: Sequence[Program]) -> str:
    """The text of supervisord.conf; programs stop in the reverse of their order.

    No path of a directory is in it, as there is none that every value could hold. supervisord runs
    where the logs are, and gets the other places by variables: that of its socket, and
    `directories`.
    """
    config = configparser.RawConfigParser()
    config["supervisord"] = {
        "nodaemon": "true",
        "silent": "true",
        "logfile": "supervisord.log",
        "logfile_maxbytes": "5MB",
        "pidfile": "supervisord.pid",
        "childlogdir": ".",
        "umask": f"{UMASK:03o}",
    }
    if os.geteuid() == 0:  # or it warns; it looks a user up, and another one may have no entry
        config["supervisord"]["user"] = "0"
    config["unix_http_server"] = {"file": f"%(ENV_{SOCKET})s", "chmod": "0700"}
    config["rpcinterface:supervisor"] = {
        "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
    }
    for position, program in enumerate(programs):
        config[f"program:{program.name}"] = {
            "command": " ".join(map(_quote, _with_nice(program))),
            "priority": str(position + 1),
            "autorestart": "unexpected" if program.one_shot else "true",
            "exitcodes": "0,1",
            "startsecs": "0" if program.one_shot else str(program.start_seconds),
            "startretries": "5",
            "stopsignal": "TERM",
            "stopwaitsecs": str(program.stop_seconds),
            "stopasgroup": "false",
            "killasgroup": "true",
            "umask": f"{UMASK:03o}",
            "redirect_stderr": "true",
            "stdout_logfile": f"{program.name}.log",
            "stdout_logfile_maxbytes": "20MB",
            "stdout_logfile_backups": "2",
        }
        if program.directory is not None:
            config[f"program:{program.name}"]["directory"] = f"%(ENV_{_variable(program)})s"
    text = io.StringIO()
    config.write(text)
    return text.getvalue()


def _place_of_socket() -> tuple[Path, Path]:
    """A folder for the socket, and its path, which may hold about 100 bytes."""
    for parent in (tempfile.gettempdir(), "/tmp"):  # noqa: S108 - where the first is deep
        runtime = make_temporary("supervisor", parent)
        socket = runtime / "supervisor.sock"
        if len(os.fsencode(socket)) <= LONGEST_SOCKET:
            return runtime, socket
        runtime.rmdir()
    raise SupervisionError(f"{socket}: too long for a unix socket; set TMPDIR to a shorter path")


class Supervisor:
    """supervisord as a child process, in a session of its own so that Ctrl-C reaches only us.

    Args:
        programs: what to run.
        folder: of the logs.
        environment: the whole environment of every program.

    Attributes:
        output: the last lines that it printed.
    """

    def __init__(
        self, programs: Sequence[Program], folder: Path, environment: Mapping[str, str]
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._one_shot = {p.name for p in programs if p.one_shot}
        self._runtime, self._socket = _place_of_socket()
        path = folder / "supervisord.conf"
        path.write_text(configuration(programs), encoding="utf-8")
        path.chmod(0o600)
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-P", "-m", "supervisor.supervisord", "-n", "-c", path.name],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            # No file: while the disk is full supervisord complains here of each line that it cannot
            # log, and a complaint that it cannot write closes the part's output for good.
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={  # and from it to every program
                **environment,
                **directories(programs),
                SOCKET: str(self._socket),
            },
            start_new_session=True,
            # If the pipeline itself is killed with SIGKILL, supervisord stops all parts.
            preexec_fn=end_with_parent,
        )
        self.output: deque[str] = deque(maxlen=100)
        threading.Thread(target=self._listen, name="supervisord", daemon=True).start()
        self._proxy = ServerProxy(
            "http://127.0.0.1",
            transport=SupervisorTransport(None, None, f"unix://{self._socket}"),
        )
        self._seen: dict[int, psutil.Process] = {}

    def _listen(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - a pipe, see above
        for line in self._process.stdout:
            self.output.append(line.decode(errors="replace").rstrip())

    def wait_until_up(self, timeout: float = 20.0) -> None:
        """Wait for the control socket.

        Raises:
            SupervisionError: with what supervisord printed, if it ended or stayed silent.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                self._call("getState")
                return
            except SupervisionError:
                time.sleep(0.1)
        said = next(iter(self.output), "it says nothing")
        raise SupervisionError(f"supervisord did not start: {said}")

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return getattr(self._proxy.supervisor, method)(*arguments)
        except Fault as fault:
            raise SupervisionError(f"supervisord refused {method}: {fault.faultString}") from fault
        except (OSError, ValueError) as error:
            self._proxy("close")()
            raise SupervisionError(f"supervisord does not answer: {error}") from error

    def states(self) -> dict[str, ProcessState]:
        """State of each program by name.

        Raises:
            SupervisionError: if supervisord is gone.
        """
        return {
            p["name"]: ProcessState(
                p["name"],
                p["statename"],
                p["pid"],
                p["exitstatus"],
                self.folder / p["stdout_logfile"],
                p["name"] in self._one_shot,
            )
            for p in self._call("getAllProcessInfo")
        }

    def start_program(self, name: str) -> None:
        """Start a program that is down; what supervisord refuses is seen by its state."""
        with suppress(SupervisionError):
            self._call("startProcess", name, False)

    def stop_program(self, name: str) -> None:
        """Stop a program until it is started; what supervisord refuses is seen by its state."""
        with suppress(SupervisionError):
            self._call("stopProcess", name, False)

    def processes(self) -> list[psutil.Process]:
        """Supervisord and all its living descendants."""
        try:
            root = psutil.Process(self._process.pid)
            found = [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            found = []
        self._seen.update((p.pid, p) for p in found)
        return found

    def memory_bytes(self) -> int:
        """Memory of all processes together: proportional set size, shared pages counted once."""
        total = 0
        for process in self.processes():
            try:
                total += process.memory_full_info().pss
            except (psutil.Error, AttributeError):
                continue
        return total

    def stop(self, timeout: float = 90.0) -> None:
        """Stop every program in reverse order, then supervisord; leaves no process behind."""
        self.processes()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        left = [p for p in self._seen.values() if p.is_running()]
        for process in left:  # what a killed supervisord, or a killed part, left behind
            try:
                process.terminate()
            except psutil.NoSuchProcess:
                continue
        _, stubborn = psutil.wait_procs(left, timeout=5)
        for process in stubborn:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        shutil.rmtree(self._runtime, ignore_errors=True)


def last_line(log: Path, size: int = 8192) -> str:
    """The last line of a log that says something: the last `error: ...`, else the last one."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - size))
            lines = [s for s in file.read().decode(errors="replace").splitlines() if s.strip()]
    except OSError:
        return ""
    errors = [s for s in lines if s.startswith("error: ")]
    return (errors or lines or [""])[-1].removeprefix("error: ")
