"""What the retrieval service measures, in the words of Prometheus: prefix `sparc_`, units in names.

Each service has a registry of its own, so tests and several services in one process do not meet.
Values that exist elsewhere are read when they are scraped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from deploy.service.workers import AddedUp

_DELAYS = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 300.0)
_LATENCIES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Reading(NamedTuple):
    """A value read at each scrape, exported as `sparc_service_<name>` (a counter: `..._total`).

    `value` gives None while there is none.
    """

    name: str
    help: str
    value: Callable[[], float | None]
    counter: bool = False


class _Readings(Collector):
    def __init__(self, readings: Sequence[Reading]) -> None:
        self._readings = readings

    def collect(self) -> Iterable[Metric]:
        for reading in self._readings:
            family = CounterMetricFamily if reading.counter else GaugeMetricFamily
            metric = family(f"sparc_service_{reading.name}", reading.help)
            if (value := reading.value()) is not None:
                metric.add_metric([], value)
            yield metric


class ServiceMetrics:
    """Metrics of one retrieval service: its requests, and `readings` of its other parts.

    Args:
        readings: read at each scrape.
        more: further collectors.
        workers: gives the metrics of the other workers, as text.
    """

    def __init__(
        self,
        readings: Sequence[Reading],
        more: Sequence[Collector] = (),
        workers: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self._registry = CollectorRegistry()
        self._workers = workers
        for collector in (_Readings(readings), *more):
            self._registry.register(collector)
        self.request_seconds = Histogram(
            "sparc_service_request_seconds",
            "Time from a request's arrival to its answer.",
            ("route", "status"),
            buckets=_LATENCIES,
            registry=self._registry,
        )
        self.queries = Counter(
            "sparc_service_queries",
            "Queries by where the history came from: known_user, unknown_user, request.",
            ("history",),
            registry=self._registry,
        )
        self.retrieved_items = Counter(
            "sparc_service_retrieved_items", "Items answered.", registry=self._registry
        )

        self.publish_to_serve_seconds = Histogram(
            "sparc_snapshot_publish_to_serve_seconds",
            "Time from a version's publication to its first answer, the judging included.",
            buckets=_DELAYS,
            registry=self._registry,
        )
        self._latencies: deque[float] = deque(maxlen=2048)

    def observe(self, route: str, status: int, seconds: float) -> None:
        """Take the time of a request; those of queries also count for `latency_ms`."""
        self.request_seconds.labels(route, str(status)).observe(seconds)
        if route == "/v1/retrieve" and status == 200:
            self._latencies.append(seconds)

    def latency_ms(self) -> dict[str, float | None]:
        """Quantiles of the last queries' times in ms; None before the first."""
        times = sorted(self._latencies)
        return {
            f"p{int(q * 100)}_ms": times[int(q * (len(times) - 1))] * 1000 if times else None
            for q in (0.5, 0.95, 0.99)
        }

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes."""
        texts = self._workers()
        if not texts:
            return generate_latest(self._registry)
        whole = CollectorRegistry()
        whole.register(AddedUp(self._registry.collect, texts))
        return generate_latest(whole)
