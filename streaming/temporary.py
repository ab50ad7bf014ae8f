"""Private folders in the temporary directory that go away, also after a kill."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def make_temporary(purpose: str, parent: str | None = None) -> Path:
    """A new folder that only its owner may enter; those that killed processes left are removed.

    It is made in `parent`, by default the temporary directory.
    """
    remove_left(purpose, parent)
    return Path(tempfile.mkdtemp(prefix=f"sparc-{purpose}-{os.getpid()}-", dir=parent))


@contextmanager
def temporary(purpose: str) -> Iterator[Path]:
    """`make_temporary`, removed at the end."""
    folder = make_temporary(purpose)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_left(purpose: str, parent: str | None = None) -> None:
    """Remove the folders of that purpose whose makers have ended; only those that are ours."""
    pattern = re.compile(rf"sparc-{re.escape(purpose)}-(\d+)-\w+")
    for entry in os.scandir(parent or tempfile.gettempdir()):
        match = pattern.fullmatch(entry.name)
        # Anyone may make a name, or a link, in a common directory.
        if match is None or not entry.is_dir(follow_symlinks=False):
            continue
        try:
            ours = entry.stat(follow_symlinks=False).st_uid == os.geteuid()
        except FileNotFoundError:  # another sweep was quicker
            continue
        if ours and not _runs(int(match[1])):
            shutil.rmtree(entry.path, ignore_errors=True)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
