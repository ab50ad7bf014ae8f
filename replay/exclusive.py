"""One replay per data directory: two would send everything twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from replay.errors import ReplayError
from streaming.sole_process import sole_process


@contextmanager
def exclusive(data_dir: Path) -> Iterator[None]:
    """Hold the replay's lock; the system releases it when the process ends, however it ends.

    Raises:
        ReplayError: if another replay holds it.
    """
    path = data_dir / "replay" / "lock"
    with ExitStack() as held:
        try:
            other = held.enter_context(sole_process(path))
        except OSError as error:
            raise ReplayError(f"{path}: {error.strerror}; make the directory writable") from error
        if other:
            raise ReplayError(
                f"another replay runs with the data directory {data_dir}, with pid {other}; stop "
                "it, or use another"
            )
        yield
