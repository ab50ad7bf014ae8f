"""What the other parts report, for Prometheus: read from their status files at each scrape.

One scrape of the service thus shows the whole pipeline; `part_figures` says what.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from deploy.monitoring import moment
from deploy.monitoring.full_disk import free_bytes
from deploy.monitoring.moment import Moment
from deploy.monitoring.part_failures import read_failures
from deploy.monitoring.part_figures import FIGURES
from deploy.monitoring.part_status import PARTS, age_seconds, is_alive, read_statuses


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
            status = statuses.of(part)
            ended = part == "replay" and statuses.replay.done  # the end of a log is no failure
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
        for one in FIGURES:
            if one.metric:
                family = CounterMetricFamily if one.counter else GaugeMetricFamily
                metric = family(one.metric, one.help)
                if (value := one.number(statuses)) is not None:
                    metric.add_metric([], value)
                yield metric
