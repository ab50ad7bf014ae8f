"""A checkout that lies in a directory of any name, without the downloads of a real set-up."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from deploy.settings import ROOT
from tests.conftest import ODD_NAME

SET_UP = ROOT / "deploy" / "set_up.sh"
NAME = ODD_NAME.translate({ord(c): None for c in ":${}"})
UV = Path(sysconfig.get_path("scripts"), "uv")


def start(folder: Path) -> str:
    """What a start that cannot get far says."""
    (folder / "deploy").mkdir(parents=True)
    for name in ("set_up.sh", "start_pipeline.sh"):
        shutil.copy(ROOT / "deploy" / name, folder / "deploy" / name)
    done = subprocess.run(
        [folder / "deploy" / "start_pipeline.sh"],
        env={**os.environ, "JAVA_HOME": "/nowhere"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    return done.stderr


@pytest.mark.parametrize("name", ["a:b", "a\\b", "a{b", "a}b", "$a", "a\tb", "a\nb"])
def test_a_checkout_where_nothing_could_be_installed_is_refused_at_once(
    tmp_path: Path, name: str
) -> None:
    assert "move it" in start(tmp_path / name)
    assert not (tmp_path / name / ".venv").exists()


def test_any_other_checkout_is_set_up(tmp_path: Path) -> None:
    assert "JDK" in start(tmp_path / NAME)


@pytest.mark.skipif(not UV.exists(), reason="uv is not installed beside this Python")
def test_the_command_runs_in_a_checkout_of_any_name(tmp_path: Path) -> None:
    folder = tmp_path / NAME
    (folder / "deploy").mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "deploy" / "__init__.py").touch()
    (folder / "deploy" / "__main__.py").write_text(
        "main = lambda: print(__file__)", encoding="utf-8"
    )
    venv = folder / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    # the lines of set_up.sh that do it
    lines = SET_UP.read_text(encoding="utf-8")
    assert "echo 'relocatable = true' >>" in lines
    assert "--no-deps --no-build-isolation -e .)" in lines
    with (venv / "pyvenv.cfg").open("a", encoding="utf-8") as file:
        file.write("relocatable = true\n")
    packages = next(venv.glob("lib/python*/site-packages"))
    (packages / "shared.pth").write_text(
        sysconfig.get_path("purelib")
        + "\n"
        + "\n".join(path for path in sys.path if path.endswith("site-packages")),
        encoding="utf-8",
    )
    subprocess.run(
        [
            UV,
            "pip",
            "install",
            "-q",
            "--offline",
            "--python",
            venv / "bin" / "python",
            "--no-deps",
            "--no-build-isolation",
            "-e",
            ".",
        ],
        cwd=folder,
        check=True,
    )
    done = subprocess.run(
        [venv / "bin" / "sparc"], cwd="/", capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()) == folder / "deploy" / "__main__.py"
