"""The pipeline's run in MLflow, alive: the parts' reports over trained events and event time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from deploy.monitoring.part_status import read_statuses

_FROM: tuple[tuple[str, str, str], ...] = (
    ("train", "recall_at_50", "live/recall_at_50"),
    ("train", "ndcg_at_50", "live/ndcg_at_50"),
    ("train", "events_per_second", "live/trained_events_per_second"),
    ("train", "lag", "live/training_lag_records"),
    ("stream", "lag", "live/streaming_lag_records"),
    ("stream", "late", "live/late_clicks"),
    ("stream", "dead_letters", "live/dead_letters"),
    ("index", "indexed_items", "live/indexed_items"),
    ("index", "codes_in_use", "live/codes_in_use"),
    ("serve", "history_lag_records", "live/history_lag_records"),
    ("serve", "popularity_recall_at_50", "live/popularity_recall_at_50"),
    ("serve", "pointer_age_seconds", "live/snapshot_age_seconds"),
)


def live_metrics(statuses: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Finite numbers of the parts' reports by the names they have in the run."""
    found = {}
    for part, key, name in _FROM:
        value = statuses.get(part, {}).get(key)
        if isinstance(value, (int, float)) and math.isfinite(value):
            found[name] = float(value)
    window = (statuses.get("train", {}).get("prequential") or {}).get("window_recall_at_50")
    if isinstance(window, float) and math.isfinite(window):
        found["live/window_recall_at_50"] = window
    return found


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
        trained = statuses["train"].get("trained_events")
        event_time = statuses["train"].get("event_time")
        if not isinstance(trained, int) or not isinstance(event_time, int) or trained == self._step:
            return
        self._send(live_metrics(statuses), trained, event_time)
        self._step = trained
