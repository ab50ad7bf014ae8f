"""The pipeline's run in MLflow, alive: the parts' reports over trained events and event time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from deploy.monitoring.part_figures import FIGURES
from deploy.monitoring.part_status import Statuses, read_statuses


def live_metrics(statuses: Statuses) -> dict[str, float]:
    """Numbers of the parts' reports by the names they have in the run."""
    return {
        one.mlflow: value
        for one in FIGURES
        if one.mlflow and (value := one.number(statuses)) is not None
    }


class LiveMetrics:
    """Sends the metrics every `seconds`, where something was trained since the last time.

    `send` takes (metrics, step = trained events, time in ms = the newest trained event's).
    """

    def __init__(
        self,
        data_dir: Path,
        send: Callable[[dict[str, float], int, int], None],
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._data_dir = data_dir
        self._send = send
        self._seconds = seconds
        self._clock = clock
        self._sent_at = float("-inf")
        self._step = -1

    def step(self) -> None:
        """Send if it is time to.

        Raises:
            Exception: whatever the registry raises; it is tried again after the next interval.
        """
        if self._seconds <= 0 or self._clock() - self._sent_at < self._seconds:
            return
        self._sent_at = self._clock()
        statuses = read_statuses(self._data_dir)
        trained, event_time = statuses.train.trained_events, statuses.train.event_time
        if trained is None or event_time is None or trained == self._step:
            return
        self._send(live_metrics(statuses), trained, event_time)
        self._step = trained
