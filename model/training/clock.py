"""Monotonic time, passed in so that tests need not wait for it."""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Clock(Protocol):
    """A monotonic clock."""

    def now(self) -> float:
        """Seconds since some moment."""

    def wait(self, stop: threading.Event, seconds: float) -> None:
        """Let time pass, less if `stop` is set meanwhile."""


class SystemClock:
    """The computer's clock."""

    def now(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()

    def wait(self, stop: threading.Event, seconds: float) -> None:
        """Sleep."""
        stop.wait(seconds)
