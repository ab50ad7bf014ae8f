"""Flags over variables over the file, in `sparc up` and in every part that it starts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from deploy import settings as configuration
from deploy.local.launch import Wish, part_environment, replay_section, write_config
from deploy.local.supervision import Program, Supervisor
from replay.errors import ReplayError
from tests.deploy.commands.test_app import HEADER, refused, sparc

ASK = """
from deploy import settings
found = settings.load()
replay = found.replay
print(replay.events, replay.rate, found.trainer["catch_up_from"], found.data_dir, flush=True)
"""


@pytest.fixture
def logs(tmp_path: Path) -> tuple[Path, Path]:
    """Two logs."""
    found = tmp_path / "flag.csv", tmp_path / "variable.csv"
    for path in found:
        path.write_text(f"{HEADER}1,2,1400000000\n", encoding="utf-8")
    return found


def variables(monkeypatch: pytest.MonkeyPatch, **values: Any) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))


def test_what_a_flag_says_is_what_every_part_does(
    tmp_path: Path, logs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    flag, variable = logs
    variables(
        monkeypatch,
        SPARC_REPLAY__EVENTS=variable,
        sparc_replay__rate=5.0,
        SPARC_TRAINER__CATCH_UP_FROM=77,
        SPARC_DATA_DIR=tmp_path / "elsewhere",
        SPARC_CONFIG=tmp_path / "none.toml",
        SPARC_REVISION="kept",
    )
    monkeypatch.delenv("SPARC_CONFIG")
    section = replay_section(Wish(events=flag, rate=9.0))
    state = tmp_path / "state"
    state.mkdir()
    settings = configuration.load(
        None, state, written=False, replay=section, trainer={"catch_up_from": 0}
    )
    write_config(settings)
    given = part_environment(settings)
    assert given["SPARC_REVISION"] == "kept"
    part = Program("part", [sys.executable, "-c", ASK], one_shot=True)
    given["PYTHONPATH"] = os.pathsep.join([str(configuration.ROOT), given.get("PYTHONPATH", "")])
    supervisor = Supervisor([part], state / "logs", given)
    try:
        log = state / "logs" / "part.log"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (log.is_file() and "\n" in log.read_text()):
            time.sleep(0.1)
        assert log.read_text().split() == [str(flag), "9.0", "0", str(state)]
    finally:
        supervisor.stop()


def test_a_flag_puts_out_what_it_excludes(
    logs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    flag, variable = logs
    variables(monkeypatch, SPARC_REPLAY__DATASET="amazon-2014-beauty", SPARC_REPLAY__SPEEDUP=7)
    section = replay_section(Wish(events=flag, rate=9.0))
    found = configuration.load(None, written=False, replay=section).replay
    assert (found.events, found.dataset, found.rate, found.speedup) == (flag, "", 9.0, 0.0)
    variables(monkeypatch, SPARC_REPLAY__DATASET="", SPARC_REPLAY__EVENTS=variable)
    section = replay_section(Wish(dataset="amazon-2014-beauty"))
    found = configuration.load(None, written=False, replay=section).replay
    assert (found.events, found.dataset) == (None, "amazon-2014-beauty")


def test_a_log_that_is_named_elsewhere_has_an_absolute_path(
    logs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, variable = logs
    monkeypatch.chdir(variable.parent)
    variables(monkeypatch, SPARC_REPLAY__EVENTS=variable.name)
    assert replay_section(Wish())["events"] == variable
    variables(monkeypatch, SPARC_REPLAY__EVENTS=variable.parent)
    with pytest.raises(ReplayError, match="is a directory; name the file in it"):
        replay_section(Wish())


def test_a_directory_and_a_pipe_are_called_so(tmp_path: Path) -> None:
    state = tmp_path / "state"
    refused(sparc("up", "--events", tmp_path, "--data-dir", state), "is a directory")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    refused(sparc("up", "--events", pipe, "--data-dir", state), "is a pipe", "write it to a file")
    refused(sparc("up", "--config", tmp_path, "--data-dir", state), "a directory")


def test_a_refusal_of_the_command_is_short(tmp_path: Path) -> None:
    config = tmp_path / "sparc.toml"
    config.write_text(f"[kafka]\npartitions = '{'x' * 8_000_000}'\n", encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-m", "deploy", "config", "show", "--config", str(config)],
        cwd=configuration.ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 1
    assert len(result.stderr) < 2500
    assert "kafka.partitions" in result.stderr
