"""Freshness: how long the pipeline takes, measured by itself on what passes through it.

    item withdrawn -> gone           from the item's tombstone on `items` until the service has
                                     a retriever that cannot answer with it
    item listed -> retrievable       from the item's record on `items` until the service has
                                     a retriever that can answer with it
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
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prometheus_client import Counter, Histogram
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from deploy.monitoring import moment
from deploy.monitoring.delay_quantiles import METRICS
from deploy.monitoring.moment import Moment
from indexer.search.retriever import Retriever
from streaming.events import UserSequence

PER_SECOND = 200
PATIENCE_SECONDS = 600.0
BUCKETS = (
    0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0, 4.0, 5.0,
    7.5, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0, 60.0, 80.0, 100.0, 150.0, 300.0, 600.0,
)  # fmt: skip


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
            retriever = self._serving
            self._leaving.pop(item_id, None)
            if retriever is None or not retriever.may_answer([item_id])[0]:
                self._items.setdefault(item_id, self._began(at_s))

    def withdrawn(self, item_id: int, at_s: float) -> None:
        """An item was withdrawn; one that cannot be retrieved is of no interest."""
        with self._alone:
            self._items.pop(item_id, None)
            retriever = self._serving
            if retriever is not None and retriever.may_answer([item_id])[0]:
                self._leaving.setdefault(item_id, self._began(at_s))

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

    def serves(self, retriever: Retriever) -> None:
        """A retriever took over: another version, or the same with items appended."""
        now = self._clock().seconds
        with self._alone:
            self._serving = retriever
            waiting = list(self._items)
            for item_id, there in zip(waiting, retriever.may_answer(waiting), strict=True):
                if there:
                    seconds = now - self._items.pop(item_id)
                    self.item_retrievable.observe(max(0.0, seconds))
            leaving = list(self._leaving)
            for item_id, there in zip(leaving, retriever.may_answer(leaving), strict=True):
                if not there:
                    seconds = now - self._leaving.pop(item_id)
                    self.item_withdrawn.observe(max(0.0, seconds))
            self._learnt_to = retriever.snapshot.facts.learnt_to("sequences")
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
