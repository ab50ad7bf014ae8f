"""One replay per data directory: two would send everything twice."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from replay.errors import ReplayError


@contextmanager
def exclusive(data_dir: Path) -> Iterator[None]:
    """Hold the replay's lock; the system releases it when the process ends, however it ends.

    Raises:
        ReplayError: if another replay holds it.
    """
    path = data_dir / "replay" / "lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise ReplayError(f"{path}: {error.strerror}; make the directory writable") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ReplayError(
                f"another replay runs with the data directory {data_dir}; stop it, or use another"
            ) from error
        yield
