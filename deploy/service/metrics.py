"""What the retrieval service measures, in the words of Prometheus: prefix `sparc_`, units in names.

Each service has a registry of its own, so tests and several services in one process do not meet.
Values that exist elsewhere are read when they are scraped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from deploy.service.health import Answering, since_pointer
from deploy.service.workers import others

if TYPE_CHECKING:
    from indexer.search.retriever import Retriever

ADDED = frozenset(
    f"sparc_service_{name}"
    for name in (
        "request_seconds",
        "queries",
        "retrieved_items",
        "arm_answers",
        "shadows_left_out",
        "answers_logged",
        "answers_not_logged",
        "queue_requests",
        "queue_refused",
        "queue_timed_out",
        "batches",
        "batched_queries",
    )
)
"""Families that count what each worker does."""
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
            "Queries by where the history came from: known_user, unknown_user, request, none.",
            ("history",),
            registry=self._registry,
        )
        self.arm_answers = Counter(
            "sparc_service_arm_answers",
            "Answers by the arms of the split, also of those into the log only.",
            ("split", "arm"),
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


def readings(service: Answering) -> list[Reading]:
    """What is read of one worker's parts."""
    follower, histories, sequences = service.follower, service.histories, service.sequences
    answers, together, device = service.answers, service.together, follower.device

    def of_state(value: Callable[[Retriever], float]) -> Callable[[], float | None]:
        return lambda: value(follower.retriever) if follower.retriever else None

    def behind() -> float | None:
        retriever, latest = follower.retriever, histories.latest_event_time_ms
        return max(0, latest - retriever.event_time_ms) / 1000 if retriever and latest else None

    return [
        Reading("ready", "1 once a snapshot is loaded.", lambda: float(bool(follower.retriever))),
        Reading("snapshot_version", "Snapshot that answers.", of_state(lambda s: s.version)),
        Reading("snapshot_pinned", "1 while pinned.", lambda: float(follower.pinned)),
        Reading("items", "Items that can be retrieved.", of_state(lambda s: s.retrievable)),
        Reading(
            "snapshot_age_seconds",
            "Since the pointer was last moved.",
            lambda: since_pointer(service),
        ),
        Reading("snapshot_load_seconds", "Last load.", lambda: follower.load_seconds),
        Reading("snapshot_swaps", "Snapshots swapped in.", lambda: follower.swaps, True),
        Reading("snapshot_failures", "Snapshots refused.", lambda: follower.failures, True),
        Reading(
            "model_behind_seconds",
            "Event time between the newest click known and the newest one learnt.",
            behind,
        ),
        Reading("history_users", "Users with a history.", lambda: histories.users),
        Reading("history_lag_records", "Not taken in yet.", lambda: sequences.lag_records),
        Reading("history_records", "Taken in.", lambda: sequences.stored_records, True),
        Reading("history_poisoned", "Skipped.", lambda: histories.poisoned, True),
        Reading(
            "item_id_collisions",
            "Clicks on items whose text has the number of another.",
            lambda: histories.collisions,
            True,
        ),
        Reading("kafka_connected", "1 while connected.", lambda: float(sequences.connected)),
        Reading(
            "history_event_time_seconds",
            "Newest click known, seconds since 1970.",
            lambda: histories.latest_event_time_ms / 1000,
        ),
        Reading(
            "answers_logged",
            "Answers in the log's files.",
            lambda: answers.written if answers else 0,
            True,
        ),
        Reading(
            "answers_not_logged",
            "Answers that the log lost.",
            lambda: answers.lost if answers else 0,
            True,
        ),
        Reading(
            "shadows_left_out",
            "Answers of shadow arms that were not asked for, as too many waited.",
            lambda: service.shadows.refused,
            True,
        ),
        Reading("queue_requests", "Waiting or being answered.", lambda: service.queue.waiting),
        Reading("queue_refused", "Answered 429.", lambda: service.queue.refused, True),
        Reading("queue_timed_out", "Answered 504.", lambda: service.queue.timed_out, True),
        Reading(
            "batches",
            "Calls that answered queries which came at about the same time.",
            lambda: together.calls if together else None,
            True,
        ),
        Reading(
            "batched_queries",
            "Queries that they answered.",
            lambda: together.answered if together else None,
            True,
        ),
        Reading(
            "device_bytes",
            "Memory of the lists on the GPU.",
            lambda: device.nbytes if device else None,
        ),
        Reading(
            "device_refusals",
            "How often the CPU took over what did not fit on the GPU.",
            lambda: device.refused if device else None,
            True,
        ),
        Reading(
            "popularity_recall_at_50",
            "Recall@50 of the popularity peer over its last queries, a ratio.",
            lambda: service.popularity.window_recall,
        ),
    ]


def read_metrics(data_dir: Path, token: str) -> list[str]:
    """The metrics of the workers beside the first, as text; one that is away is left out."""
    texts = []
    for one in others(data_dir):
        try:
            answer = httpx.get(
                f"http://127.0.0.1:{one['port']}/metrics",
                headers={"Authorization": f"Bearer {token}"} if token else {},
                timeout=1.0,
                trust_env=False,
            )
            texts.append(answer.raise_for_status().text)
        except httpx.HTTPError:
            continue
    return texts


class AddedUp(Collector):
    """Metrics whose `ADDED` families are the sums over workers.

    Args:
        collect: the families of the first worker.
        texts: the metrics of the others.
    """

    def __init__(self, collect: Callable[[], Iterable[Metric]], texts: Sequence[str]) -> None:
        self._collect = collect
        self._texts = texts

    def collect(self) -> Iterable[Metric]:
        """The families, each once."""
        more: dict[str, dict[tuple[str, frozenset[tuple[str, str]]], Any]] = {}
        for text in self._texts:
            for family in text_string_to_metric_families(text):
                if family.name not in ADDED:
                    continue
                samples = more.setdefault(family.name, {})
                for sample in family.samples:
                    key = sample.name, frozenset(sample.labels.items())
                    before = samples[key].value if key in samples else 0.0
                    samples[key] = sample._replace(value=before + sample.value)
        for metric in self._collect():
            left = more.pop(metric.name, {})
            for at, sample in enumerate(metric.samples):
                other = left.pop((sample.name, frozenset(sample.labels.items())), None)
                if other is not None and not sample.name.endswith("_created"):
                    metric.samples[at] = sample._replace(value=sample.value + other.value)
            metric.samples.extend(left.values())
            yield metric
