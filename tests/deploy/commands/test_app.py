"""Bad input at the command line: one clear line, an exit code other than 0, nothing left behind."""

from __future__ import annotations

import gzip
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.commands.app import app
from deploy.settings import ROOT

HEADER = "user_id,item_id,time\n"


def sparc(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploy", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )


def refused(result: subprocess.CompletedProcess[str], *words: str) -> str:
    assert result.returncode == 1, result.stdout + result.stderr
    lines = [s for s in result.stderr.splitlines() if s.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in lines[0], lines[0]
    return lines[0]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def test_a_missing_log_is_named(tmp_path: Path, state: Path) -> None:
    missing = tmp_path / "none.csv"
    refused(sparc("up", "--events", missing, "--data-dir", state), str(missing), "no such file")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a,b,c\n1,2,3\n", ["events.csv"]),
        (b"", ["events.csv"]),
        (gzip.compress(HEADER.encode() + b"1,2,1400000000\n" * 9000)[:-40], ["events.csv"]),
    ],
    ids=["wrong columns", "empty", "truncated gzip"],
)
def test_a_log_that_cannot_be_used_is_refused_before_anything_starts(
    tmp_path: Path, state: Path, content: bytes, words: list[str]
) -> None:
    events = tmp_path / "events.csv"
    events.write_bytes(content)
    refused(sparc("up", "--events", events, "--data-dir", state), *words)
    assert not (state / "kafka").exists()
    assert not list(state.rglob(".partial-*"))


@pytest.mark.parametrize(
    "row", [",2,1400000000", "1,2,-5", "1,2,99999999999", "1,2"], ids=lambda row: row
)
def test_a_bad_line_stops_a_strict_replay_with_its_number(
    tmp_path: Path, state: Path, row: str
) -> None:
    events = tmp_path / "events.csv"
    events.write_text(f"{HEADER}1,2,1400000000\n{row}\n", encoding="utf-8")
    refused(
        sparc("up", "--strict", "--events", events, "--data-dir", state), "events.csv", "line 3"
    )


def test_a_port_in_use_is_named_with_the_setting_that_changes_it(state: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        line = refused(sparc("up", "--data-dir", state, SPARC_PORTS__KAFKA=port), port, "in use")
    assert "SPARC_PORTS__KAFKA" in line


def test_a_foreign_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear", encoding="utf-8")
    refused(sparc("up", "--fresh", "--data-dir", tmp_path), "not of a pipeline")
    assert (tmp_path / "letter.txt").read_text(encoding="utf-8") == "dear"


def test_a_misspelt_setting_is_refused(tmp_path: Path, state: Path) -> None:
    config = tmp_path / "sparc.toml"
    config.write_text("[trainer]\n[kafka]\nbootstrp = 'a:1'\n", encoding="utf-8")
    refused(sparc("up", "--config", config, "--data-dir", state), "bootstrp", "bootstrap")


def test_an_unknown_dataset_and_a_dataset_with_files_are_refused(tmp_path: Path) -> None:
    events = tmp_path / "events.csv"
    events.write_text(HEADER + "1,2,1400000000\n", encoding="utf-8")
    options = ("--data-dir", tmp_path / "state")
    refused(sparc("up", "--dataset", "amazon-1999-hats", *options), "amazon-1999-hats")
    refused(
        sparc("up", "--dataset", "amazon-2014-beauty", "--events", events, *options), "--dataset"
    )


def test_without_java_the_pipeline_says_what_to_install(tmp_path: Path, state: Path) -> None:
    refused(sparc("up", "--data-dir", state, PATH=str(tmp_path), JAVA_HOME=""), "17", "install")


def test_a_service_that_does_not_answer_is_an_error_with_a_remedy(state: Path) -> None:
    line = refused(
        sparc("retrieve", "--user", "1", "--data-dir", state, SPARC_PORTS__SERVICE="1"), "127.0.0.1"
    )
    assert "start_pipeline.sh" in line


def _only(folder: Path, *programs: str) -> str:
    """A PATH with nothing but these programs, bash and what the set-up needs."""
    folder.mkdir()
    needed = (
        *("bash", "dirname", "mkdir", "cat", "sha256sum", "cut", "sed", "head"),
        *("flock", "find", "sort", "xargs", "env"),
    )
    for name in (*needed, *programs):
        found = shutil.which(name)
        if found:
            (folder / name).symlink_to(found)
    return str(folder)


@pytest.mark.parametrize(
    ("programs", "words"),
    [((), ["no JDK", "install"]), (("java",), ["no Maven", "install"])],
    ids=["no JDK", "no Maven"],
)
def test_the_set_up_names_what_is_missing(
    tmp_path: Path, programs: tuple[str, ...], words: list[str]
) -> None:
    clone = tmp_path / "clone"
    for name in ("deploy/set_up.sh", "deploy/start_pipeline.sh", "deploy/pom.xml"):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, clone / name)
    shutil.copytree(ROOT / "streaming" / "java", clone / "streaming" / "java")
    for name in ("requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, clone / name)
    # The Python part counts as done, so that the test needs no download.
    (clone / ".venv" / "bin").mkdir(parents=True)
    (clone / ".venv" / "bin" / "sparc").symlink_to("/bin/true")
    (clone / ".deploy").mkdir()
    stamp = subprocess.run(
        [
            "bash",
            "-c",
            "cat requirements.lock pyproject.toml deploy/set_up.sh | sha256sum | cut -d' ' -f1",
        ],
        cwd=clone,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (clone / ".deploy" / "python.stamp").write_text(stamp, encoding="utf-8")
    result = subprocess.run(
        [shutil.which("bash") or "bash", str(clone / "deploy" / "start_pipeline.sh")],
        env={"PATH": _only(tmp_path / "bin", *programs), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    refused(result, *words)


def test_every_command_shows_an_example_in_its_help() -> None:
    for command in (
        "up",
        "replay",
        "stream",
        "train",
        "index",
        "register",
        "serve",
        "status",
        "retrieve",
        "snapshots",
    ):
        shown = CliRunner().invoke(app, [command, "--help"])
        assert shown.exit_code == 0
        assert "Example" in shown.output, command


def test_the_command_starts_without_what_only_its_parts_need() -> None:
    heavy = ("torch", "mlflow", "pyflink", "scipy", "matplotlib", "fastapi", "faiss")
    code = f"import sys, deploy.commands.app; print([m for m in {heavy} if m in sys.modules])"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ran.stdout == "[]\n"
