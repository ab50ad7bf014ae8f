"""Keeps the service's user histories up to date with the topic `sequences`."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from itertools import chain
from typing import Any

import structlog
from kafka.errors import KafkaError

from deploy.monitoring import full_disk
from deploy.monitoring.arrivals import Arrivals
from deploy.monitoring.freshness import Freshness
from deploy.service.user_histories import HistoryStoreError, UserHistories
from streaming.committed_topic import CommittedTopic
from streaming.errors import KafkaUnavailable, StreamingError
from streaming.kafka_clients import KafkaConnection
from streaming.topic_identity import TopicIdentity
from streaming.topics import Topics

log = structlog.get_logger(__name__)

POLL_MS = 200
MAX_RECORDS = 2000
PATIENCE_MS = 10_000
LOOK_SECONDS = 2.0
"""How often one looks for the ends of the partitions, and for new ones."""
TIDY_SECONDS = 60.0
"""How often old requests to forget are let go of."""


class SequenceFollower:
    """Keeps a `UserHistories` up to date with the topic `sequences`, in its own thread.

    All partitions are read (each service process holds all users), committed transactions only.
    Broken connections are opened again; meanwhile `connected` is False, and `problem` says why. A
    topic that is not the one that the histories come from (`identity` knows it as "sequences") is
    not read: those that there are go on being served.
    """

    def __init__(
        self,
        histories: UserHistories,
        kafka: KafkaConnection,
        topic: str,
        retry_seconds: float = 2.0,
        identity: TopicIdentity | None = None,
    ) -> None:
        self._histories = histories
        self._kafka = kafka
        self._topic = topic
        self._identity = identity
        self._retry_seconds = retry_seconds
        self.problem = ""
        """Why histories stand still; empty while they do not."""
        self.connected = False
        self.lag_records: int | None = None
        """Committed records not stored yet, over all partitions; None while unknown."""
        self.stored_records = 0
        self._arrivals: Arrivals | None = None
        self._tidied = float("-inf")

    def measure(self, freshness: Freshness) -> None:
        """Tell `freshness` of clicks and items as they reach the same Kafka, beside `run`."""
        prefix = self._topic.removesuffix(Topics().sequences)
        self._arrivals = Arrivals(freshness, Topics().prefixed(prefix), self._kafka)

    def run(self, stop: threading.Event) -> None:
        """Follow until `stop` is set."""
        if self._arrivals is not None:
            run = self._arrivals.run
            threading.Thread(target=run, args=(stop,), name="arrivals", daemon=True).start()
        while not stop.is_set():
            try:
                if not self._histories.writable:
                    self._histories.open_anew()
                self._follow(stop)
            except (KafkaError, OSError, ValueError, StreamingError, HistoryStoreError) as error:
                self.connected, self.lag_records = False, None
                reason = str(error)
                if not isinstance(error, HistoryStoreError):
                    reason = f"{type(error).__name__}: {error}"
                # Said once, not at every attempt; how full a disk is does not matter.
                known = full_disk.is_full(error) and full_disk.says_full(self.problem)
                before, self.problem = self.problem, reason
                if before != reason and not known:
                    log.warning(
                        "sequences not readable, histories stand still",
                        reason=reason,
                        retry_seconds=self._retry_seconds,
                    )
                stop.wait(self._retry_seconds)

    def _follow(self, stop: threading.Event) -> None:
        self._check(read=True)
        topic = CommittedTopic(self._kafka, self._topic, MAX_RECORDS, PATIENCE_MS)
        try:
            while not (stop.is_set() or self._sought(topic)):
                stop.wait(0.5)
            looked = float("-inf")
            while not stop.is_set():
                if time.monotonic() >= looked + LOOK_SECONDS:
                    ends = topic.ends()
                    looked = time.monotonic()
                    self.connected, self.problem = True, ""
                polled = topic.poll(POLL_MS)
                positions = topic.positions()
                self._check(read=bool(polled))
                if polled:
                    self._store(polled, positions)
                if time.monotonic() >= self._tidied + TIDY_SECONDS:
                    self._histories.drop_requests()
                    self._tidied = time.monotonic()
                self.lag_records = sum(max(0, end - positions.get(p, 0)) for p, end in ends.items())
        finally:
            self.connected = False
            topic.close()
            if self._identity is not None:
                self._identity.close()

    def _sought(self, topic: CommittedTopic) -> bool:
        """Go on behind what is stored; whether there is such a topic yet."""
        try:
            topic.seek(self._histories.next_offsets(self._topic))
        except KafkaUnavailable:
            return False
        return True

    def _check(self, *, read: bool) -> None:
        if self._identity is not None:
            self._identity.check(idle=not read)

    def _store(self, polled: Mapping[int, list[Any]], positions: Mapping[int, int]) -> None:
        records = chain.from_iterable(polled.values())
        offsets = {(self._topic, partition): offset for partition, offset in positions.items()}
        self.stored_records += self._histories.store(records, offsets)
