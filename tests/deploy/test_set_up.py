"""The set-up of both scripts, on a small project of the same shape: real venv, pip and uv."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "small"
version = "1"
[tool.setuptools]
packages = ["deploy"]
"""
SAYS = 'import os, sys\nprint("ready", os.getcwd(), sys.argv[1:], "PYTHONPATH" in os.environ)\n'
JARS_STAMP = (
    "find deploy/pom.xml deploy/checksums.sha256 streaming/java -type f -print0 "
    "| LC_ALL=C sort -z | xargs -0 cat | sha256sum | cut -d' ' -f1"
)


@pytest.fixture
def project() -> Iterator[Path]:
    """A checkout whose jars are there, and whose requirements are what an installation needs."""
    if not shutil.which("java"):
        pytest.skip("no java on the PATH")
    # Not in pytest's own directory: another user is to reach it.
    top = Path(tempfile.mkdtemp(prefix="sparc-test-"))
    top.chmod(0o755)
    root = top / "a checkout"
    for folder in ("deploy", "streaming/java", ".deploy/jars/kafka"):
        (root / folder).mkdir(parents=True)
    for name in ("set_up.sh", "start_pipeline.sh", "uv.txt"):
        shutil.copy(ROOT / "deploy" / name, root / "deploy")
    (root / "deploy" / "checksums.sha256").touch()
    (root / "deploy" / "pom.xml").write_text("<project/>")
    (root / "deploy" / "__init__.py").touch()
    (root / "deploy" / "__main__.py").write_text(SAYS)
    (root / "pyproject.toml").write_text(PYPROJECT)
    lock = (ROOT / "requirements.lock").read_text()
    needed = re.findall(r"^(?:setuptools|wheel)==.*?(?=^\S)", lock, re.MULTILINE | re.DOTALL)
    packaging = re.findall(r"^packaging==.*?(?=^\S)", lock, re.MULTILINE | re.DOTALL)
    (root / "requirements.lock").write_text("".join(needed + packaging))
    stamp = subprocess.run(
        ["bash", "-c", JARS_STAMP], cwd=root, capture_output=True, text=True, check=True
    ).stdout
    (root / ".deploy" / "jars.stamp").write_text(stamp)
    yield root
    shutil.rmtree(top, ignore_errors=True)


def start(project: Path, *before: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*before, "bash", str(project / "deploy" / "start_pipeline.sh"), "--drain"],
        env={**os.environ, **variables},
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[str, str]:
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    return output, errors


def test_an_interrupted_set_up_begins_again_and_serves_others_as_it_is(project: Path) -> None:
    first = start(project)
    python = project / ".venv" / "bin" / "python"
    deadline = time.monotonic() + 60
    while not python.exists():  # Ctrl-C while the environment is made: it has no pip yet
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(first.pid, signal.SIGTERM)  # SIGINT is ignored in what a shell runs behind itself
    first.communicate(timeout=60)
    assert first.returncode != 0

    (project / "elsewhere" / "deploy").mkdir(parents=True)  # a foreign package of our name
    (project / "elsewhere" / "deploy" / "__init__.py").touch()
    foreign = {"PYTHONPATH": str(project / "elsewhere"), "PIP_TARGET": "/nowhere", "PIP_USER": "1"}
    output, errors = ended(start(project, **foreign))
    assert output == "ready / ['up', '--drain'] False\n"
    assert "installing" in errors

    began = time.monotonic()
    output, errors = ended(start(project))
    assert output.startswith("ready")
    assert errors == ""
    assert time.monotonic() - began < 5

    user = ("setpriv", "--reuid=54321", "--regid=54321", "--clear-groups")
    if os.geteuid() or not shutil.which("setpriv"):
        return
    may_run = subprocess.run([*user, "sh", "-c", 'exec "$0" -c ""', str(python)]).returncode == 0
    if may_run:  # one who may read, but not write
        output, errors = ended(start(project, *user, HOME="/"))
        assert output.startswith("ready")
        assert errors == ""
