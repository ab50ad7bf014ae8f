"""The pipeline where people are: their shell, a container's user and host, a port just taken."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(600)]

EVENTS = 1_500
UID = 54_321
"""A user id without an entry in the password file."""
SYNTHETIC = {
    "SPARC_REPLAY__SYNTHETIC__EVENTS": str(EVENTS),
    "SPARC_REPLAY__SYNTHETIC__USERS": "150",
    "SPARC_REPLAY__SYNTHETIC__ITEMS": "120",
}
STEERED = {
    "HTTP_PROXY": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
    "ALL_PROXY": "http://127.0.0.1:9",
    "JAVA_TOOL_OPTIONS": "-Xmx1m",
    "_JAVA_OPTIONS": "-Xbogus",
    "CLASSPATH": "/nowhere",
    "LOG4J_CONFIGURATION_FILE": "/nowhere.properties",
    "FLINK_HOME": "/nowhere",
    "FLINK_CONF_DIR": "/nowhere",
    "PYFLINK_GATEWAY_DISABLED": "true",
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
    "MLFLOW_RUN_ID": "0123456789abcdef0123456789abcdef",
    "MLFLOW_EXPERIMENT_NAME": "somebody's",
    "PYTHONWARNINGS": "error",
    "PYTHONOPTIMIZE": "2",
    "WEB_CONCURRENCY": "many",
    "SSL_CERT_FILE": "/nowhere.pem",
    "GIT_DIR": "/nowhere",
    "LC_ALL": "POSIX",
}


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that the bare user may write to and reach."""
    folder = Path(tempfile.mkdtemp(prefix="sparc-test-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def foreign_packages(folder: Path) -> Path:
    for name in ("deploy", "model", "streaming"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text("raise ImportError('foreign')\n")
    return folder


def stranger(place: Path) -> list[str]:
    """What runs a command on a host whose name does not resolve, as a user without a name.

    Where another user may not run this Python, as ourselves.
    """
    if os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "setpriv", "hostname"))):
        return []
    user = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"]
    other_host = ["unshare", "--uts", "sh", "-c", 'hostname sparc-nowhere && exec "$@"', "sh"]
    # By a shell: what setpriv itself runs may still have the rights of root.
    try_it = ["sh", "-c", 'exec "$0" -c "import numpy"', sys.executable]
    if subprocess.run([*user, *try_it], cwd="/").returncode:
        return other_host
    subprocess.run(["chown", "-R", f"{UID}:{UID}", str(place)], check=True)
    return [*other_host, *user]


def take_the_port_of_kafka(data_dir: Path, deadline: float) -> socket.socket:
    """Listen on the port that was chosen for Kafka before Kafka does."""
    while time.monotonic() < deadline:
        try:
            config = tomllib.loads((data_dir / "config.toml").read_text(encoding="utf-8"))
            thief = socket.socket()
            thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            thief.bind(("127.0.0.1", config["ports"]["kafka"]))
            thief.listen()
            return thief
        except FileNotFoundError:
            time.sleep(0.01)
    raise AssertionError("no configuration was written")


def test_shell_user_host_and_a_port_just_taken_do_not_matter(jars: Path, place: Path) -> None:
    state, shell = place / "donnée d'un autre", foreign_packages(place / "shell")
    as_stranger = stranger(place)
    environment = {"PATH": os.environ["PATH"], "HOME": "/", **STEERED, **SYNTHETIC}
    environment["PYTHONPATH"] = str(shell)
    command = [sys.executable, "-I", "-m", "deploy", "up", "--drain", "--data-dir", str(state)]
    process = subprocess.Popen(
        [*as_stranger, *command],
        cwd=shell,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        with take_the_port_of_kafka(state, time.monotonic() + 60):
            output, errors = process.communicate(timeout=500)
    finally:
        process.terminate()  # the whole pipeline ends with its first process
    assert process.returncode == 0, (output[-3000:], errors[-3000:])
    assert b"not used from your environment: " in errors
    assert b"JAVA_TOOL_OPTIONS" in errors
    assert b"port_taken" in errors
    summary = json.loads(output.splitlines()[-1])
    assert summary["clicks_produced"] == summary["trained_events"] == EVENTS
    assert summary["lost"] == 0


@pytest.mark.slow
def test_two_pipelines_started_at_once_both_come_up(jars: Path, tmp_path: Path) -> None:
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "deploy", "up", "--drain", "--data-dir", str(tmp_path / name)],
            env={**os.environ, **SYNTHETIC},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for name in ("one", "two")
    ]
    for process in running:
        output, _ = process.communicate(timeout=500)
        assert process.returncode == 0, output[-3000:]
        assert json.loads(output.splitlines()[-1])["lost"] == 0
