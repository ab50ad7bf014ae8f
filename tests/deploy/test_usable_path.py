from __future__ import annotations

import os
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from deploy import settings as configuration
from deploy.local.data_directory import log_name
from deploy.local.launch import Wish, run
from deploy.local.progress import Progress
from deploy.settings import SettingsError
from deploy.usable_path import PathError, require_usable
from tests.conftest import ODD_NAME

LONG = "/".join(["d" * 250] * 15)


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("/a\nb", "control character"),
        ("/a\x7fb", "control character"),
        ("/a\\b", "backslash"),
        (os.fsdecode(b"/a\xe9b"), "not UTF-8"),
        (f"/{LONG}", "choose a shorter one"),
    ],
)
def test_what_a_program_could_not_find_again_is_refused_before_anything_is_written(
    tmp_path: Path, path: str, what: str
) -> None:
    place = Path(f"{tmp_path}{path}")
    with pytest.raises(PathError, match=what):
        run(Wish(data_dir=place), None)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=what):
        configuration.load(None, place)
    assert not list(tmp_path.iterdir())


def test_any_other_name_is_taken() -> None:
    require_usable(Path("/", ODD_NAME, "d" * 250))


def test_a_log_of_any_name_has_a_data_directory_of_a_name_that_can_be(tmp_path: Path) -> None:
    folder = tmp_path / ("é" * 127)
    folder.mkdir()
    for name in ("x" * 255, "a\nb\\c.csv"):
        found = log_name(folder / name, None)
        require_usable(tmp_path / found)
        (tmp_path / found).mkdir()


def test_paths_in_the_configuration_are_those_of_who_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "sparc.toml"
    file.write_text(
        'data_dir = "~/state"\njars_dir = "jars"\n[replay]\nevents = "log.csv"\n'
        '[kafka.security]\nprotocol = "SSL"\nca_file = "~/ca.pem"\n'
        '[flink]\ncheckpoints = "/shared/my shop"\n',
        encoding="utf-8",
    )
    settings = configuration.load(file)
    assert settings.data_dir == Path("/home/somebody/state")
    assert settings.jars_dir == tmp_path / "jars"
    assert settings.replay.events == tmp_path / "log.csv"
    assert settings.kafka.security.ca_file == Path("/home/somebody/ca.pem")
    assert settings.flink.checkpoints == "file:///shared/my shop"
    file.write_text('[flink]\ncheckpoints = "shared"\n', encoding="utf-8")
    with pytest.raises(SettingsError, match="an absolute path, or a URI"):
        configuration.load(file)


def test_the_checkpoints_are_in_the_data_directory_whatever_it_is_called(tmp_path: Path) -> None:
    settings = configuration.load(None, tmp_path / ODD_NAME)
    assert settings.job_environment().checkpoints == f"file://{tmp_path}/{ODD_NAME}/checkpoints"


def test_a_path_is_shown_as_it_is() -> None:
    console = Console(file=StringIO(), width=400)
    with Progress(console, {"logs": f"/{ODD_NAME}/[/x]/logs"}):
        pass
    assert f"/{ODD_NAME}/[/x]/logs" in console.file.getvalue()  # type: ignore[attr-defined]
