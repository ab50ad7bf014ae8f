"""Users who are to be forgotten, noted beside the service as soon as Kafka has the request.

    <data_dir>/service/forgotten/<user id>   the event id of the last request, one file for each

The request takes its way through the job. Until it has come out of it, and where histories are read
from the topic anew until that place is reached, no worker answers from what it knows of the user:
each looks here, at every question, and compares with what it has read (`UserHistories`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from streaming.durable_files import write_atomically
from streaming.events import FORGET, Click


def request(user_id: int, event_id: str) -> Click:
    """The record of `clicks` by which a user is forgotten."""
    return Click(event_id, user_id, 0, time.time_ns() // 1_000_000, FORGET)


class ForgottenUsers:
    """The notes of a data directory; safe to share by threads and processes.

    Args:
        data_dir: of the pipeline.
        keep_seconds: how long a note is of use: as long as `sequences` may hold what was before the
            request; None for ever.
    """

    def __init__(self, data_dir: Path, keep_seconds: float | None = None) -> None:
        self._folder = data_dir / "service" / "forgotten"
        self._keep_seconds = keep_seconds

    def note(self, asked: Click) -> None:
        """Take note of a request that Kafka has; it is on disk when this returns.

        Raises:
            OSError: if it cannot be written.
        """
        write_atomically(self._path(asked.user_id), asked.event_id.encode())

    def asked(self, user_id: int) -> str | None:
        """The event id of the last request to forget a user; None where there is none."""
        try:
            return self._path(user_id).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def asked_ms(self, user_id: int) -> float | None:
        """When that was noted, wall clock; None where there is no request."""
        with suppress(FileNotFoundError):
            return self._path(user_id).stat().st_mtime * 1000
        return None

    def users(self) -> Iterator[int]:
        """Those who are noted."""
        with suppress(FileNotFoundError):
            for path in self._folder.iterdir():
                with suppress(ValueError):  # one that is being written
                    yield int(path.name)

    def drop_old(self) -> None:
        """Remove the notes that are of no use any more."""
        if self._keep_seconds is None:
            return
        for user_id in list(self.users()):
            with suppress(FileNotFoundError):
                if time.time() - self._path(user_id).stat().st_mtime > self._keep_seconds:
                    self._path(user_id).unlink()

    def drop(self, requests: Mapping[int, str | None]) -> None:
        """Remove the notes of these requests; one that was noted since stays."""
        for user_id, event_id in requests.items():
            if event_id is not None and self.asked(user_id) == event_id:
                self._path(user_id).unlink(missing_ok=True)

    def _path(self, user_id: int) -> Path:
        return self._folder / str(user_id)
