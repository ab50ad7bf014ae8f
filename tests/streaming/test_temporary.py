from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from streaming.temporary import make_temporary, temporary

LEAVE = """
import os
from streaming.temporary import make_temporary
folder = make_temporary("test")
(folder / "secret").write_text("x")
print(folder, flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield tmp_path
    tempfile.tempdir = None


def left_by_a_killed_process() -> Path:
    done = subprocess.run([sys.executable, "-c", LEAVE], capture_output=True, text=True)
    return Path(done.stdout.strip())


def test_what_a_killed_process_left_is_removed_by_the_next():
    left = left_by_a_killed_process()
    assert (left / "secret").is_file()
    with temporary("other"):
        assert left.is_dir()  # not theirs
    with temporary("test") as folder:
        assert not left.exists()
        assert folder.stat().st_mode & 0o077 == 0
    assert not folder.exists()


def test_what_a_living_process_uses_stays():
    mine = make_temporary("test")
    make_temporary("test")
    assert mine.is_dir()


def test_a_link_is_not_followed(place):
    gone = left_by_a_killed_process().name.split("-")[2]
    (place / "precious").mkdir()
    (place / "precious" / "file").touch()
    os.symlink(place / "precious", place / f"sparc-test-{gone}-abc")
    make_temporary("test")
    assert (place / "precious" / "file").is_file()
