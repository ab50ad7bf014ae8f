"""Files that appear whole or not at all, and that survive a power cut once they are named.

Whatever one process writes and another reads is written under a temporary name and renamed. Before
a pointer, a journal or a ledger names a file, the file and the directories above it are synced.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from pathlib import Path

PARTIAL = ".partial-"


def make_folder(path: Path) -> None:
    """Make a folder and those above it; what was made survives a power cut."""
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in made:
        sync_path(folder.parent)


def appear(partial: Path, destination: Path) -> None:
    """Give a synced file or directory its name, for good: whatever names it may be written next."""
    partial.rename(destination)
    sync_path(destination.parent)


def sync_path(path: Path) -> None:
    """Make a file's content, or what a directory names, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(directory: Path) -> None:
    """`sync_path` of a directory, its files and folders."""
    for path in directory.rglob("*"):
        sync_path(path)
    sync_path(directory)


def write_atomically(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Replace a small file so that readers see the old or the new one.

    `sync` makes it survive a power cut (a pointer must, a status need not).
    """
    make_folder(path.parent) if sync else path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / f"{PARTIAL}{path.name}-{os.getpid()}-{threading.get_ident()}"
    try:
        with partial.open("wb") as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        appear(partial, path) if sync else partial.rename(path)
    except OSError:  # on a full disk it would keep what room there is
        partial.unlink(missing_ok=True)
        raise


def remove_partial(parent: Path, older_than_s: float = 0.0) -> None:
    """Remove what a killed writer left behind in `parent`.

    With `older_than_s` only what has lain there for so long, where others may be writing.
    """
    if not parent.is_dir():
        return
    for path in parent.glob(f"{PARTIAL}*"):
        with contextlib.suppress(FileNotFoundError):
            if older_than_s and time.time() - path.lstat().st_mtime < older_than_s:
                continue
            shutil.rmtree(path) if path.is_dir() else path.unlink()
