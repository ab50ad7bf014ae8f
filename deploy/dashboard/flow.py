"""The flow of events through the parts: rates, lag and freshness, sampled from what they report."""

from __future__ import annotations

import bisect
import math
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import orjson
import structlog

from deploy.monitoring import full_disk, moment
from deploy.monitoring.moment import Moment
from deploy.monitoring.part_failures import Failure, read_failures
from deploy.monitoring.part_status import age_seconds, is_alive, read_statuses, reported_at
from deploy.monitoring.thinned_curve import Curve
from streaming.durable_files import write_atomically

if TYPE_CHECKING:
    from deploy.service.retrieval import RetrievalService

log = structlog.get_logger(__name__)

RECENT = 150
"""Points of the sparklines."""
SAVE_SECONDS = 30.0

COUNTERS = {
    "replay": "clicks_produced",
    "train": "trained_events",
    "index": "indexed_items",
    "register": "registered_versions",
}
"""What is counted per second, by part; the stream's rate and the service's are seen here."""
TITLES = {
    "replay": "Replay",
    "stream": "Flink job",
    "train": "Trainer",
    "index": "Indexer",
    "register": "Registrar",
    "serve": "Service",
}
FIGURES: dict[str, tuple[tuple[str, str], ...]] = {
    "replay": (("clicks_produced", "clicks"), ("bad_lines", "bad lines")),
    "stream": (
        ("job_state", "job"),
        ("checkpoints", "checkpoints"),
        ("late", "late"),
        ("dead_letters", "dead letters"),
    ),
    "train": (("trained_events", "learnt"), ("micro_batches", "micro-batches")),
    "index": (
        ("indexed_items", "items"),
        ("codes_in_use", "codes in use"),
        ("withdrawn_items", "withdrawn"),
        ("items_refused", "refused"),
    ),
    "register": (("registered_versions", "versions"), ("pending", "waiting")),
    "serve": (("users", "users"), ("swaps", "swaps")),
}
LAGS = {"stream": "lag", "train": "lag", "index": "items_lag", "serve": "history_lag_records"}


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
        counts = {part: statuses[part].get(key) for part, key in COUNTERS.items() if statuses[part]}
        counts["stream"] = self._service.sequences.stored_records
        counts["serve"] = self._service.answered_by_all()
        for part, count in counts.items():
            said = now if part in ("stream", "serve") else reported_at(statuses[part])
            if said is not None:
                self.rates[part] = self._rate(part, count, said)
        lags = {part: _finite(statuses[part].get(key)) for part, key in LAGS.items()}
        point = {
            "at_ms": int(now.wall * 1000),
            "rates": dict(self.rates),
            "lags": lags,
            "snapshot_age_seconds": self._age(),
        }
        self.recent = [*self.recent, point][-RECENT:]
        self._sample_quality(statuses["train"])
        if now.seconds - self._saved_at > SAVE_SECONDS:
            self._saved_at = now.seconds
            self.save()

    def _rate(self, part: str, count: object, at: Moment) -> float | None:
        if not isinstance(count, (int, float)):
            return None
        before = self._before.get(part)
        if before is not None and at == before[1]:  # no new report since
            return self.rates.get(part) if self._clock().since(at) < 10 else 0.0
        self._before[part] = (float(count), at)
        if before is None or count < before[0] or (seconds := at.since(before[1])) <= 0:
            return None
        return (float(count) - before[0]) / seconds

    def _sample_quality(self, train: Mapping[str, Any]) -> None:
        metrics, at = train.get("prequential") or {}, train.get("event_time")
        values = [
            metrics.get(name)
            for name in ("window_recall_at_50", "recall_at_50", "window_ndcg_at_50")
        ]
        if not isinstance(at, int) or not isinstance(values[0], float):
            return
        points = self.quality.points
        if not points or points[-1][0] != at:
            self.quality.add((float(at), *values))

    def _age(self) -> float | None:
        pointer = self._service.follower.pointer
        return max(0.0, self._clock().wall - pointer.published_at / 1000) if pointer else None

    def view(self) -> dict[str, Any]:
        """The page's first section, as plain JSON values."""
        now = self._clock()
        data_dir = self._service.data_dir
        statuses, failed = read_statuses(data_dir), read_failures(data_dir, now)
        health = self._service.health()
        learnt, newest = health.trained_until_ms, health.latest_event_ms
        register = statuses["register"]
        return {
            "now_ms": int(now.wall * 1000),
            "parts": [self._part(part, statuses[part], now, failed.get(part)) for part in TITLES],
            "problems": [
                *([] if full_disk.has_room(data_dir) else [full_disk.sentence(data_dir)]),
                *(failure.sentence() for failure in failed.values()),
            ],
            "freshness": {
                "snapshot_age_seconds": self._age(),
                "model_behind_seconds": max(0, newest - learnt) / 1000
                if learnt and newest
                else None,
                "history_lag_records": health.history_lag_records,
                "training_lag_records": _finite(statuses["train"].get("lag")),
                "event_time_ms": newest,
            },
            "serving": {
                "version": health.version,
                "challenger": health.challenger_version,
                "pinned": health.pinned,
                "items": health.items,
                "users": health.users,
                "registry_reachable": register.get("reachable"),
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
                "recall_at_50": _finite(statuses["train"].get("recall_at_50")),
                "window_recall_at_50": _finite(
                    (statuses["train"].get("prequential") or {}).get("window_recall_at_50")
                ),
                "popularity_window_recall_at_50": self._popularity_at(
                    statuses["train"].get("event_time")
                ),
            },
            "recent": self.recent,
        }

    def _popularity_at(self, event_time_ms: object) -> float | None:
        """The peer's recall when the log was where the trainer is now: it may be ahead of it."""
        points = self._service.popularity.curve.points
        if not isinstance(event_time_ms, int) or not points:
            return None
        at = bisect.bisect_right([float(point[0] or 0) for point in points], event_time_ms)
        return points[max(0, at - 1)][1]

    def _part(
        self, part: str, status: Mapping[str, Any], now: Moment, failure: Failure | None
    ) -> dict[str, Any]:
        done = part == "replay" and bool(status.get("done"))
        alive, age = is_alive(status, now), age_seconds(status, now)
        state = "done" if done else "live" if alive else "silent" if status else "absent"
        if failure is not None:
            state = "failed"
        return {
            "name": part,
            "title": TITLES[part],
            "state": state,
            "doing": str(status.get("state") or status.get("job_state") or ""),
            "problem": failure.why if failure else str(status.get("problem") or ""),
            "age_seconds": None if age is None else round(age, 1),
            "rate": self.rates.get(part),
            "lag": _finite(status.get(LAGS[part])) if part in LAGS else None,
            "figures": [
                {"label": label, "value": status[key]}
                for key, label in FIGURES[part]
                if status.get(key) is not None
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
