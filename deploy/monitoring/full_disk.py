"""A full file system: how it is recognised, what is said of it, and how a part waits for room.

The rooms know nothing of it. Whatever cannot be written raises, is caught at the edge of the part
and recognised here by what the operating system, RocksDB or SQLite said; the part then waits until
there is room and begins anew, as after a crash, which loses nothing. The service alone goes on
meanwhile: it answers from what it has (`deploy/service/process.py`).

As a program it stands before a command that is not ours, such as Kafka's broker, which ends when
its disk is full: `python -m deploy.monitoring.full_disk DIR COMMAND...` waits for room in DIR and
becomes it.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

LEAST_BYTES = 32 << 20
LEAST_SHARE = 0.05
"""Room that is waited for: `LEAST_BYTES`, on a small file system this share of it."""
POLL_SECONDS = 1.0
TRY_SECONDS = 60.0
"""So often it is tried anyway: what a quota leaves is not seen from outside."""
ERRNOS = (errno.ENOSPC, errno.EDQUOT)
WORDS = ("no space left", "disk quota exceeded", "disk is full", "storagefull")
"""What RocksDB, SQLite (also through MLflow) and safetensors say, in small letters."""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from; what was raised while it was handled, too."""
    todo, seen = [error], set[int]()
    while todo:
        one = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        todo += [e for e in (one.__cause__, one.__context__) if e is not None]
        todo += getattr(one, "exceptions", ())


def is_full(error: BaseException) -> bool:
    """Whether an error comes from a file system that is full, or a quota that is used up.

    >>> is_full(OSError(errno.ENOSPC, "No space left on device"))
    True
    >>> is_full(Exception("IO error: No space left on device: While appending to file: 000004.log"))
    True
    >>> is_full(OSError(errno.EACCES, "Permission denied"))
    False
    """
    for one in _chain(error):
        if isinstance(one, OSError) and one.errno in ERRNOS:
            return True
        if says_full(str(one)):
            return True
    return False


def says_full(text: str) -> bool:
    """Whether words are those of a full disk."""
    return any(word in text.lower() for word in WORDS)


def existing(path: Path) -> Path:
    """The path, or the nearest of its parents that is there."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def where(error: BaseException, default: Path) -> Path:
    """The directory that is full: that of the file an error names, else `default`."""
    for one in _chain(error):
        if isinstance(one, OSError) and one.errno in ERRNOS and isinstance(one.filename, str):
            return existing(Path(one.filename).absolute().parent)
    return existing(default)


def free_bytes(directory: Path) -> int:
    """Bytes that may still be written under a directory."""
    return shutil.disk_usage(existing(directory)).free


def has_room(directory: Path) -> bool:
    """Whether there is room to work."""
    usage = shutil.disk_usage(existing(directory))
    return usage.free >= min(LEAST_BYTES, LEAST_SHARE * usage.total)


def sentence(directory: Path) -> str:
    """What is wrong and what to do, the same words everywhere."""
    return (
        f"the disk is full: {free_bytes(directory):,} bytes free in {directory}; free some space, "
        "and it goes on by itself"
    )


def await_room(
    directory: Path,
    stop: threading.Event,
    tell: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Wait until it is worth another try; False if told to stop meanwhile.

    That is when there is room, and more of it than now: what failed may need much. At the latest
    it is after `TRY_SECONDS`.

    Args:
        directory: that is full.
        stop: ends the wait.
        tell: called about once a second with the sentence.
        clock: monotonic seconds.
    """
    began, before = clock(), free_bytes(directory)
    while not stop.wait(POLL_SECONDS):
        if clock() - began >= TRY_SECONDS:
            return True
        if has_room(directory) and free_bytes(directory) > before:
            return True
        tell(sentence(directory))
    return False


def begin_anew() -> None:
    """Become the process that was started, with its arguments; the id stays the same."""
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 (ourselves)


def main() -> None:
    """Wait for room in a directory, then become a command."""
    directory, command = Path(sys.argv[1]), sys.argv[2:]
    stop = threading.Event()
    if not has_room(directory):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        print(sentence(directory), flush=True)
        while not has_room(directory):
            if stop.wait(POLL_SECONDS):
                sys.exit(0)
        print(f"there is room in {directory} again", flush=True)
    os.execv(command[0], command)  # noqa: S606 (the supervised program)


if __name__ == "__main__":
    main()
