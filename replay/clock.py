"""The simulated clock: when each event of a log is due, and what time it is in the log.

The log's time runs at `speedup` times real time, or events leave at a fixed `rate`, or nothing is
held back. The clock is told the real time and never sleeps, so a test needs no time.
"""

from __future__ import annotations

from collections.abc import Callable


class SimulatedClock:
    """Starts when it is made.

    Args:
        start_ms: time of the first event to come, in milliseconds.
        rate: events per second of real time; 0 for no limit.
        speedup: seconds of the log per second of real time; 0 for no limit.
        now: real time in seconds, from any origin (`time.monotonic`).
    """

    def __init__(
        self, start_ms: int, rate: float, speedup: float, now: Callable[[], float]
    ) -> None:
        self.paced = bool(rate or speedup)
        self._start_ms = self._last_ms = start_ms
        self._rate = rate
        self._speedup = speedup
        self._now = now
        self._began = now()
        self._left = 0

    def delay(self, time_ms: int) -> float:
        """Seconds until the next event, of time `time_ms`, is due; 0 if it is overdue."""
        if self._rate:
            due = self._left / self._rate
        elif self._speedup:
            due = (time_ms - self._start_ms) / 1000 / self._speedup
        else:
            return 0.0
        return max(0.0, self._began + due - self._now())

    def leave(self, time_ms: int) -> None:
        """Note that the next event has left."""
        self._left += 1
        self._last_ms = time_ms

    def time_ms(self, next_ms: int) -> int:
        """The time in the log: between that of the last event that left and of the next one."""
        if not self._speedup:
            return self._last_ms
        elapsed = (self._now() - self._began) * 1000 * self._speedup
        return int(min(max(self._start_ms + elapsed, self._last_ms), next_ms))
