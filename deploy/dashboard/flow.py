"""The flow of events through the parts: rates, lag and freshness, sampled from what they report."""

from __future__ import annotations

import bisect
import math
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import orjson
import structlog

from deploy.monitoring import full_disk, moment
from deploy.monitoring.moment import Moment
from deploy.monitoring.part_failures import Failure, read_failures
from deploy.monitoring.part_figures import FIGURES, figures
from deploy.monitoring.part_status import (
    Statuses,
    age_seconds,
    is_alive,
    read_statuses,
    reported_at,
)
from deploy.monitoring.thinned_curve import Curve
from deploy.service.health import health_of, since_pointer
from streaming.durable_files import write_atomically
from streaming.statuses import TrainerStatus

if TYPE_CHECKING:
    from deploy.service.retrieval import RetrievalService

log = structlog.get_logger(__name__)

RECENT = 150
"""Points of the sparklines."""
SAVE_SECONDS = 30.0

TITLES = {
    "replay": "Replay",
    "stream": "Flink job",
    "train": "Trainer",
    "index": "Indexer",
    "register": "Registrar",
    "serve": "Service",
}


class Flow:
    """Samples the parts' reports; `sample` is called by one thread, `view` by any."""

    def __init__(
        self,
        service: RetrievalService,
        clock: Callable[[], Moment] = moment.now,
    ) -> None:
        self._service = service
        self._clock = clock
        self._path = service.data_dir / "service" / "curves.json"
        self._saved_at = clock().seconds
        self._before: dict[str, tuple[float, Moment]] = {}
        self.rates: dict[str, float | None] = {}
        self.recent: list[dict[str, Any]] = []
        self.quality = Curve(("event_time_ms", "window_recall", "recall", "window_ndcg"))
        self._load()

    def sample(self) -> None:
        """Look at every part once."""
        now = self._clock()
        statuses = read_statuses(self._service.data_dir)
        for one in FIGURES:
            if one.rate and (said := reported_at(statuses.of(one.part))) is not None:
                self.rates[one.part] = self._rate(one.part, one.number(statuses), said)
        # What the stream gives and the service answers is seen here.
        self.rates["stream"] = self._rate("stream", self._service.sequences.stored_records, now)
        self.rates["serve"] = self._rate("serve", self._service.answered_by_all(), now)
        lags = {one.part: one.number(statuses) for one in FIGURES if one.lag}
        point = {
            "at_ms": int(now.wall * 1000),
            "rates": dict(self.rates),
            "lags": lags,
            "snapshot_age_seconds": since_pointer(self._service),
        }
        self.recent = [*self.recent, point][-RECENT:]
        self._sample_quality(statuses.train)
        if now.seconds - self._saved_at > SAVE_SECONDS:
            self._saved_at = now.seconds
            self.save()

    def _rate(self, part: str, count: float | None, at: Moment) -> float | None:
        if count is None:
            return None
        before = self._before.get(part)
        if before is not None and at == before[1]:  # no new report since
            return self.rates.get(part) if self._clock().since(at) < 10 else 0.0
        self._before[part] = (float(count), at)
        if before is None or count < before[0] or (seconds := at.since(before[1])) <= 0:
            return None
        return (float(count) - before[0]) / seconds

    def _sample_quality(self, train: TrainerStatus) -> None:
        metrics, at = train.prequential, train.event_time
        values = [
            metrics.get(name)
            for name in ("window_recall_at_50", "recall_at_50", "window_ndcg_at_50")
        ]
        if at is None or values[0] is None:
            return
        points = self.quality.points
        if not points or points[-1][0] != at:
            self.quality.add((float(at), *values))

    def view(self) -> dict[str, Any]:
        """The page's first section, as plain JSON values."""
        now = self._clock()
        data_dir = self._service.data_dir
        statuses, failed = read_statuses(data_dir), read_failures(data_dir, now)
        health = health_of(self._service)
        learnt, newest = health.trained_until_ms, health.latest_event_ms
        train = statuses.train
        return {
            "now_ms": int(now.wall * 1000),
            "parts": [self._part(part, statuses, now, failed.get(part)) for part in TITLES],
            "problems": [
                *([] if full_disk.has_room(data_dir) else [full_disk.sentence(data_dir)]),
                *(failure.sentence() for failure in failed.values()),
            ],
            "freshness": {
                "snapshot_age_seconds": since_pointer(self._service),
                "model_behind_seconds": max(0, newest - learnt) / 1000
                if learnt and newest
                else None,
                "history_lag_records": health.history_lag_records,
                "training_lag_records": train.lag,
                "event_time_ms": newest,
            },
            "serving": {
                "version": health.version,
                "challenger": health.challenger_version,
                "pinned": health.pinned,
                "items": health.items,
                "users": health.users,
                "registry_reachable": statuses.register.reachable,
                "last_error": health.last_error,
            },
            "queries": {
                "per_second": self.rates.get("serve"),
                "answered": self._service.answered_by_all(),
                "refused": self._service.queue.refused,
                "waiting": self._service.queue.waiting,
                **self._service.metrics.latency_ms(),
            },
            "quality": {
                "recall_at_50": train.recall_at_50,
                "window_recall_at_50": train.prequential.get("window_recall_at_50"),
                "popularity_window_recall_at_50": self._popularity_at(train.event_time),
            },
            "recent": self.recent,
        }

    def _popularity_at(self, event_time_ms: int | None) -> float | None:
        """The peer's recall when the log was where the trainer is now: it may be ahead of it."""
        points = self._service.popularity.curve.points
        if event_time_ms is None or not points:
            return None
        at = bisect.bisect_right([float(point[0] or 0) for point in points], event_time_ms)
        return points[max(0, at - 1)][1]

    def _part(
        self, part: str, statuses: Statuses, now: Moment, failure: Failure | None
    ) -> dict[str, Any]:
        status, mine = statuses.of(part), figures(part)
        done = part == "replay" and statuses.replay.done
        alive, age = is_alive(status, now), age_seconds(status, now)
        state = (
            "done" if done else "live" if alive else "silent" if status.said_anything else "absent"
        )
        if failure is not None:
            state = "failed"
        return {
            "name": part,
            "title": TITLES[part],
            "state": state,
            "doing": status.state or (statuses.stream.job_state or "" if part == "stream" else ""),
            "problem": failure.why if failure else status.problem or status.other_version,
            "age_seconds": None if age is None else round(age, 1),
            "rate": self.rates.get(part),
            "lag": next((one.number(statuses) for one in mine if one.lag), None),
            "figures": [
                {"label": one.page, "value": value}
                for one in mine
                if one.page and (value := one.of(status)) is not None
            ],
        }

    def quality_view(self) -> dict[str, Any]:
        """Prequential recall of the model and of popularity, over event time."""
        popularity = self._service.popularity
        return {
            "model": {"columns": self.quality.columns, "points": list(self.quality.points)},
            "popularity": {
                "columns": popularity.curve.columns,
                "points": list(popularity.curve.points),
                "queries": popularity.queries,
            },
        }

    def run(self, stop: threading.Event, seconds: float = 2.0) -> None:
        """Sample until `stop` is set."""
        while not stop.is_set():
            try:
                self.sample()
            except OSError as error:
                log.warning("the dashboard's curves wait", reason=str(error))
            stop.wait(seconds)
        with suppress(OSError):  # a full disk: the curves of before are kept
            self.save()

    def save(self) -> None:
        """Keep the curves for after a restart."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path, orjson.dumps({"quality": self.quality.points}), sync=False)

    def _load(self) -> None:
        try:
            points = orjson.loads(self._path.read_bytes())["quality"]
            self.quality.resume([[_finite(value) for value in point] for point in points])
        except (OSError, ValueError, KeyError, TypeError):
            return  # a picture of the past, begun anew


def _finite(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
