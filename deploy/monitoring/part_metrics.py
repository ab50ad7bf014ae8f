"""What the other parts report, for Prometheus: read from their status files at each scrape.

One scrape of the service thus shows the whole pipeline. Names have the prefix `sparc_`, the part,
and the unit; a counter ends in `_total`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from deploy.monitoring import moment
from deploy.monitoring.full_disk import free_bytes
from deploy.monitoring.moment import Moment
from deploy.monitoring.part_failures import read_failures
from deploy.monitoring.part_status import PARTS, age_seconds, is_alive, read_statuses


class Reported(NamedTuple):
    """A number of a part's report: where it is (keys with dots), and the metric it becomes."""

    part: str
    key: str
    name: str
    help: str
    counter: bool = False


REPORTED: tuple[Reported, ...] = (
    Reported("replay", "events_read", "sparc_replay_events_read", "Events read.", True),
    Reported("replay", "clicks_produced", "sparc_replay_clicks", "Clicks produced.", True),
    Reported("replay", "bad_lines", "sparc_replay_bad_lines", "Lines refused.", True),
    Reported("stream", "lag", "sparc_stream_lag_records", "Clicks not yet read by the job."),
    Reported("stream", "checkpoints", "sparc_stream_checkpoints", "Checkpoints done.", True),
    Reported("stream", "restarts", "sparc_stream_restarts", "Restarts of the job.", True),
    Reported("stream", "late", "sparc_stream_late", "Clicks that came too late.", True),
    Reported("stream", "dead_letters", "sparc_stream_dead_letters", "Not clicks.", True),
    Reported("train", "trained_events", "sparc_train_events", "Events learnt.", True),
    Reported("train", "micro_batches", "sparc_train_micro_batches", "Micro-batches.", True),
    Reported("train", "lag", "sparc_train_lag_records", "Sequences not yet learnt."),
    Reported("train", "poison", "sparc_train_poison", "Sequences refused.", True),
    Reported("train", "quarantined", "sparc_train_quarantined", "Sequences set aside.", True),
    Reported("train", "handovers", "sparc_train_handovers", "Handovers published.", True),
    Reported(
        "train", "recall_at_50", "sparc_train_recall_at_50_ratio", "Prequential, since the start."
    ),
    Reported(
        "train",
        "prequential.window_recall_at_50",
        "sparc_train_window_recall_at_50_ratio",
        "Prequential, of the last queries.",
    ),
    Reported(
        "train", "ndcg_at_50", "sparc_train_ndcg_at_50_ratio", "Prequential, since the start."
    ),
    Reported("index", "items_lag", "sparc_index_lag_records", "Items not yet read."),
    Reported("index", "catalogue_items", "sparc_index_catalogue_items", "Items announced."),
    Reported("index", "indexed_items", "sparc_index_items", "Items in the index."),
    Reported("index", "waiting_items", "sparc_index_waiting_items", "Listed, not retrievable."),
    Reported("index", "withdrawn_items", "sparc_index_withdrawn_items", "Not to be answered."),
    Reported("index", "items_refused", "sparc_index_items_refused", "Not items.", True),
    Reported("index", "codes_in_use", "sparc_index_codes_in_use", "Codes that hold items."),
    Reported("index", "codes", "sparc_index_codes", "First-level codes."),
    Reported("index", "pending_handovers", "sparc_index_pending_handovers", "Not yet indexed."),
    Reported("index", "snapshots_published", "sparc_index_snapshots", "Published.", True),
    Reported(
        "register", "registered_versions", "sparc_register_versions", "Versions in the registry."
    ),
    Reported("register", "pending", "sparc_register_pending", "Snapshots not registered."),
    Reported("register", "unannounced", "sparc_register_unannounced", "Not yet on Kafka."),
    Reported("register", "reachable", "sparc_register_reachable", "1 while MLflow answers."),
)


class PartMetrics(Collector):
    """Collects the reports of one data directory; a part that is silent is `sparc_part_up` 0."""

    def __init__(self, data_dir: Path, clock: Callable[[], Moment] = moment.now) -> None:
        self._data_dir = data_dir
        self._clock = clock

    def collect(self) -> Iterable[Metric]:
        """Read the reports."""
        statuses, now = read_statuses(self._data_dir), self._clock()
        up = GaugeMetricFamily("sparc_part_up", "1 while the part reports.", labels=["part"])
        age = GaugeMetricFamily(
            "sparc_part_report_age_seconds", "Since the part's last report.", labels=["part"]
        )
        for part in PARTS:
            status = statuses[part]
            ended = part == "replay" and bool(status.get("done"))  # the end of a log is no failure
            up.add_metric([part], float(ended or is_alive(status, now)))
            if (seconds := age_seconds(status, now)) is not None:
                age.add_metric([part], max(0.0, seconds))
        yield up
        yield age
        failed = GaugeMetricFamily(
            "sparc_part_failed",
            "1 while a part is down.",
            labels=["part"],
        )
        down = read_failures(self._data_dir, now)
        for part in sorted({*PARTS, *down}):
            failed.add_metric([part], float(part in down))
        yield failed
        free = GaugeMetricFamily("sparc_disk_free_bytes", "Room in the data directory.")
        free.add_metric([], float(free_bytes(self._data_dir)))
        yield free
        for one in REPORTED:
            family = CounterMetricFamily if one.counter else GaugeMetricFamily
            metric = family(one.name, one.help)
            value: Any = statuses[one.part]
            for key in one.key.split("."):
                value = (value or {}).get(key)
            if isinstance(value, (int, float)) and math.isfinite(value):
                metric.add_metric([], float(value))
            yield metric
