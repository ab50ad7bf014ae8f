"""How long the pipeline takes, measured by itself on what passes through it.

    item withdrawn -> gone           from the item's tombstone on `items` to the first state of the
                                     service that cannot answer with it
    item listed -> retrievable       from the item's record on `items` to the first state of the
                                     service that can answer with it
    click -> in history              from the click's record on `clicks` until the next answer to
                                     its user takes it into account
    click -> learnt in what serves   until a version answers that was trained on it

The beginning of each is the time of its Kafka record, which the producer sets by its wall clock;
from the moment that the record is seen here, time is this machine's monotonic clock's. A sample is
followed: at most `PER_SECOND` records a second, the newest, so that a log that is replayed as fast
as can be costs no more than a live one. What is not seen to its end within `PATIENCE_SECONDS` is
counted as lost to sight.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import structlog
from kafka import TopicPartition
from kafka.errors import KafkaError
from prometheus_client import Counter, Histogram
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from deploy.monitoring import moment
from deploy.monitoring.moment import Moment
from indexer.search.retriever import Retriever
from streaming.bounds import EventError
from streaming.events import HEARTBEAT, Click, UserSequence, Withdrawal, announcement
from streaming.kafka_clients import KafkaConnection
from streaming.topics import Topics

log = structlog.get_logger(__name__)

PER_SECOND = 200
PATIENCE_SECONDS = 600.0
BUCKETS = (
    0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0, 4.0, 5.0,
    7.5, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0, 60.0, 80.0, 100.0, 150.0, 300.0, 600.0,
)  # fmt: skip
METRICS = {
    "item_retrievable": "sparc_freshness_item_retrievable_seconds",
    "item_withdrawn": "sparc_freshness_item_withdrawn_seconds",
    "click_in_history": "sparc_freshness_click_in_history_seconds",
    "click_learnt": "sparc_freshness_click_learnt_seconds",
}


class Freshness(Collector):
    """What is on its way, and histograms of how long it took; safe to share by threads.

    Args:
        clock: its wall clock is compared with that of Kafka's producers.
    """

    def __init__(self, clock: Callable[[], Moment] = moment.now) -> None:
        self._clock = clock
        self._alone = threading.Lock()
        self._items: dict[int, float] = {}
        self._leaving: dict[int, float] = {}
        self._clicks: dict[str, float] = {}
        self._unlearnt: dict[tuple[int, int], float] = {}  # (partition, offset) of the sequence
        # Now and then a sequence is stored before its click was looked at.
        self._stored: dict[str, tuple[float, int, int]] = {}
        self._serving: Retriever | None = None
        self._learnt_to: dict[int, int] = {}  # partition -> next offset that it has not learnt
        self.item_retrievable, self.item_withdrawn, self.click_in_history, self.click_learnt = (
            Histogram(METRICS[name], text, buckets=BUCKETS, registry=None)
            for name, text in (
                ("item_retrievable", "From an item's listing until it can be retrieved."),
                ("item_withdrawn", "From an item's withdrawal until no answer has it."),
                ("click_in_history", "From a click until answers to its user know it."),
                ("click_learnt", "From a click until a version answers that has learnt it."),
            )
        )
        self.lost = Counter(
            "sparc_freshness_lost", "Not seen to its end in time.", ("what",), registry=None
        )

    def collect(self) -> Iterator[Metric]:
        """For Prometheus."""
        for one in (
            self.item_retrievable,
            self.item_withdrawn,
            self.click_in_history,
            self.click_learnt,
            self.lost,
        ):
            yield from one.collect()

    def listed(self, item_id: int, at_s: float) -> None:
        """An item was announced; an item that can be retrieved already is of no interest."""
        with self._alone:
            state = self._serving
            self._leaving.pop(item_id, None)
            if state is None or int(_codes(state, [item_id])[0]) < 0:
                self._items.setdefault(item_id, self._began(at_s))

    def withdrawn(self, item_id: int, at_s: float) -> None:
        """An item was withdrawn; one that cannot be retrieved is of no interest."""
        with self._alone:
            self._items.pop(item_id, None)
            state = self._serving
            if state is not None and int(_codes(state, [item_id])[0]) >= 0:
                self._leaving.setdefault(item_id, at_s)

    def clicked(self, event_id: str, at_s: float) -> None:
        """A click was made."""
        with self._alone:
            stored = self._stored.pop(event_id, None)
            if stored is None:
                self._clicks[event_id] = self._began(at_s)
            else:
                self._in_history(self._began(at_s), *stored)

    def _began(self, at_s: float) -> float:
        """The time of a record (seconds since 1970) by the clock that nobody puts back."""
        now = self._clock()
        return now.seconds - max(0.0, now.wall - at_s)

    def taken_in(self, sequences: Iterable[tuple[int, int, UserSequence]]) -> None:
        """(partition, offset, sequence) of what the histories hold from now on."""
        now = self._clock().seconds
        with self._alone:
            for partition, offset, sequence in sequences:
                event_id = str(sequence.event_id)
                at_s = self._clicks.pop(event_id, None)
                if at_s is not None:
                    self._in_history(at_s, now, partition, offset)
                else:
                    self._stored[event_id] = (now, partition, offset)
            while len(self._stored) > 10 * PER_SECOND:
                del self._stored[next(iter(self._stored))]
            self._forget(now)

    def _in_history(self, at_s: float, now: float, partition: int, offset: int) -> None:
        self.click_in_history.observe(max(0.0, now - at_s))
        if offset < self._learnt_to.get(partition, 0):
            self.click_learnt.observe(max(0.0, now - at_s))
        else:
            self._unlearnt[partition, offset] = at_s

    def serves(self, state: Retriever) -> None:
        """A state took over: another version, or the same with items appended."""
        now = self._clock().seconds
        with self._alone:
            self._serving = state
            waiting = list(self._items)
            for item_id, code in zip(waiting, _codes(state, waiting).tolist(), strict=True):
                if code >= 0:
                    seconds = now - self._items.pop(item_id)
                    self.item_retrievable.observe(max(0.0, seconds))
            leaving = list(self._leaving)
            for item_id, code in zip(leaving, _codes(state, leaving).tolist(), strict=True):
                if code < 0:
                    seconds = now - self._leaving.pop(item_id)
                    self.item_withdrawn.observe(max(0.0, seconds))
            offsets = state.snapshot.manifest.facts.get("offsets") or {}
            self._learnt_to = {int(p): int(o) for p, o in offsets.get("sequences", {}).items()}
            learnt = [p for p in self._unlearnt if p[1] < self._learnt_to.get(p[0], 0)]
            for place in learnt:
                self.click_learnt.observe(max(0.0, now - self._unlearnt.pop(place)))
            self._forget(now)

    def _forget(self, now: float) -> None:
        for what, waiting in (
            ("item", self._items),
            ("withdrawal", self._leaving),
            ("click", self._clicks),
            ("learnt", self._unlearnt),
        ):
            pending: dict[Any, float] = waiting  # type: ignore[assignment]
            old = [key for key, at_s in pending.items() if now - at_s > PATIENCE_SECONDS]
            for key in old:
                del pending[key]
            self.lost.labels(what).inc(len(old))


def _codes(state: Retriever, item_ids: list[int]) -> np.ndarray:
    return state.snapshot.lists.locate(np.array(item_ids, np.int64))[0]


class Arrivals:
    """Tells a `Freshness` of clicks and items as they reach Kafka."""

    def __init__(
        self,
        freshness: Freshness,
        topics: Topics,
        kafka: KafkaConnection,
        retry_seconds: float = 2.0,
    ) -> None:
        self._freshness = freshness
        self._topics = topics
        self._kafka = kafka
        self._retry_seconds = retry_seconds

    def run(self, stop: threading.Event) -> None:
        """Follow until `stop` is set; without Kafka nothing is measured, and nothing fails."""
        while not stop.is_set():
            try:
                self._follow(stop)
            except (KafkaError, OSError, ValueError) as error:
                log.debug("arrivals not readable", reason=str(error))
                stop.wait(self._retry_seconds)

    def _follow(self, stop: threading.Event) -> None:
        consumer = self._kafka.consumer(
            auto_offset_reset="latest", max_poll_records=PER_SECOND, fetch_max_wait_ms=100
        )
        try:
            partitions = [
                TopicPartition(topic, number)
                for topic in (self._topics.items, self._topics.clicks)
                for number in sorted(consumer.partitions_for_topic(topic) or ())
            ]
            if not partitions:
                stop.wait(self._retry_seconds)
                return
            consumer.assign(partitions)
            consumer.seek_to_end(*partitions)
            while not stop.is_set():
                began = time.monotonic()
                seen = 0
                while seen < PER_SECOND and time.monotonic() - began < 1 and not stop.is_set():
                    for partition, records in consumer.poll(timeout_ms=100).items():
                        seen += len(records)
                        for record in records:
                            self._tell(partition.topic, record)
                if seen >= PER_SECOND:
                    stop.wait(max(0.0, 1 - (time.monotonic() - began)))
                    consumer.seek_to_end(*partitions)  # the newest are followed, not the oldest
        finally:
            consumer.close()

    def _tell(self, topic: str, record: Any) -> None:
        at_s = record.timestamp / 1000
        try:
            if topic == self._topics.clicks:
                click = Click.from_bytes(record.value)
                if click.event_type != HEARTBEAT:
                    self._freshness.clicked(click.event_id, at_s)
                return
            said = announcement(record.key, record.value)
        except EventError:
            return  # poison is refused, and reported, by those who read the topic for its content
        if isinstance(said, Withdrawal):
            self._freshness.withdrawn(said.item_id, at_s)
        else:
            self._freshness.listed(said.item_id, at_s)


def quantiles(exposition: str) -> dict[str, dict[str, float | int | None]]:
    """p50 and p95 in seconds, and the count, of each delay in the text that Prometheus scrapes.

    Within a bucket values count as spread evenly, as Prometheus has it; None before the first.
    """
    return {
        name: {
            "p50": quantile(cumulative, 0.5),
            "p95": quantile(cumulative, 0.95),
            "count": int(cumulative[-1][1]) if cumulative else 0,
        }
        for name, cumulative in buckets(exposition).items()
    }


def buckets(exposition: str) -> dict[str, list[tuple[float, float]]]:
    """(upper bound in seconds, count up to it) of each delay, ascending."""
    found: dict[str, list[tuple[float, float]]] = {metric: [] for metric in METRICS.values()}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            if family.name in found and sample.name.endswith("_bucket"):
                found[family.name].append((float(sample.labels["le"]), sample.value))
    return {name: found[metric] for name, metric in METRICS.items()}


def quantile(cumulative: list[tuple[float, float]], q: float) -> float | None:
    """Of (upper bound, count up to it), ascending, the last bound infinite; None of nothing."""
    if not cumulative or cumulative[-1][1] == 0:
        return None
    wanted, low, below = q * cumulative[-1][1], 0.0, 0.0
    for bound, count in cumulative:
        if count >= wanted:
            inside = (wanted - below) / (count - below) if count > below else 0.0
            return low if bound == float("inf") else round(low + (bound - low) * inside, 3)
        low, below = bound, count
    return low
