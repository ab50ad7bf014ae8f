"""What one process at a time may do with a directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def sole_process(lock: Path) -> Iterator[int]:
    """Hold a lock file; the system releases it when this process ends, however it ends.

    Args:
        lock: the file, which holds the pid of its holder and stays; its folder is made.

    Yields:
        0, or the pid of the process that holds it instead; -1 for one that has not said it yet.

    Raises:
        OSError: if it cannot be written.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock, timeout=0, fallback_to_soft=False)
    try:
        held.acquire()
    except Timeout:
        yield int(lock.read_text(encoding="utf-8").strip() or -1)
        return
    try:
        with suppress(OSError):  # a full disk keeps nobody from holding it
            lock.write_text(str(os.getpid()), encoding="utf-8")
        yield 0
    finally:
        held.release()
