"""Hot swap: the newest sound snapshot, loaded beside the one that answers.

The pointer `current.json` is looked at several times a second. What it names is verified, loaded
and asked a first question before it takes over, and taking over is replacing one reference: a
request under way ends with the state it began with. A damaged snapshot never takes over; the last
good one stays, and the pointer is tried again. At a start with a damaged snapshot the newest sound
one on disk answers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from deploy.serving_state import Query, ServingState
from indexer.pointer import POINTER, Pointer, read_pointer, snapshot_path
from indexer.snapshot import ModelLoader, Snapshot, load_served, load_snapshot, versions
from indexer.soft_search import Config as SearchConfig

log = structlog.get_logger(__name__)


class SnapshotFollower:
    """Holds the `ServingState` to answer from.

    Attributes:
        state: to be read once per request; None before the first snapshot.
        pointer: what `state` was loaded for; None where it is not what the pointer names.
        swaps: how often a state took over.
        failures: how often loading failed.
        last_error: of the last attempt, empty if it went well.
        load_seconds: what the last load took.
    """

    def __init__(
        self,
        data_dir: Path,
        search: SearchConfig,
        retry_seconds: float = 1.0,
        load_model: ModelLoader | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._data_dir = data_dir
        self._search = search
        self._retry_seconds = retry_seconds
        self._load_model = load_model
        self._clock = clock
        self._seen: tuple[int, int] | None = None
        self._retry_at = float("inf")
        self.state: ServingState | None = None
        self.pointer: Pointer | None = None
        self.swaps = 0
        self.failures = 0
        self.last_error = ""
        self.load_seconds = 0.0

    def poll(self) -> bool:
        """Look at the pointer, load what is new; returns whether a state took over."""
        seen = self._fingerprint()
        if seen == self._seen and self._clock() < self._retry_at:
            return False
        self._seen, self._retry_at = seen, float("inf")
        began = self._clock()
        try:
            pointer = read_pointer(self._data_dir)
            loaded = self.state.snapshot if self.state else None
            snapshot = load_served(self._data_dir, self._load_model, loaded)
            swapped = snapshot is not None and snapshot is not loaded
            if snapshot is not None and swapped:
                self._take_over(snapshot)
        except (ValueError, RuntimeError, OSError) as error:
            self._failed(error)
            return False
        self.last_error = ""
        self.pointer = pointer
        if swapped:
            self.load_seconds = self._clock() - began
        return swapped

    def run(self, stop: threading.Event, poll_seconds: float) -> None:
        """Poll until `stop` is set."""
        while not stop.is_set():
            self.poll()
            stop.wait(poll_seconds)

    def _fingerprint(self) -> tuple[int, int] | None:
        try:
            found = (self._data_dir / POINTER).stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    def _take_over(self, snapshot: Snapshot) -> None:
        state = ServingState(snapshot, self._search)
        state.answer(Query([]))  # a model that cannot answer must not take over
        before, self.state = self.state, state
        self.swaps += 1
        log.info(
            "snapshot serves",
            version=state.version,
            before=before.version if before else None,
            items=len(snapshot.lists),
            appended=len(snapshot.appended),
        )

    def _failed(self, error: Exception) -> None:
        self._retry_at = self._clock() + self._retry_seconds
        self.failures += 1
        if str(error) != self.last_error:
            log.error(
                "snapshot refused",
                reason=str(error),
                serving=self.state.version if self.state else None,
            )
        self.last_error = str(error)
        if self.state is None:
            self._fall_back()

    def _fall_back(self) -> None:
        """Serve the newest sound snapshot on disk instead of nothing."""
        for version in reversed(versions(self._data_dir)):
            try:
                self._take_over(
                    load_snapshot(self._data_dir / snapshot_path(version), self._load_model)
                )
                return
            except (ValueError, RuntimeError, OSError) as error:
                log.error("snapshot refused", reason=str(error), version=version)
