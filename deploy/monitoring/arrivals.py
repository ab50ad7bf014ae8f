"""Clicks and items as they reach Kafka, for the freshness that is measured on them.

Only the newest count, of two topics at once, and what comes too fast is skipped: so this is a
consumer of its own, not a `CommittedTopic`, which reads one topic and leaves nothing out.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import structlog
from kafka import TopicPartition
from kafka.errors import KafkaError

from deploy.monitoring.freshness import PER_SECOND, Freshness
from streaming.bounds import EventError
from streaming.events import NO_CLICKS, Click
from streaming.items import Withdrawal, announcement
from streaming.kafka_clients import SHORT, KafkaConnection
from streaming.topics import Topics

log = structlog.get_logger(__name__)


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
            **SHORT,
            auto_offset_reset="latest",
            max_poll_records=PER_SECOND,
            fetch_max_wait_ms=100,
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
                if click.event_type not in NO_CLICKS:
                    self._freshness.clicked(click.event_id, at_s)
                return
            said = announcement(record.key, record.value)
        except EventError:
            return  # poison is refused, and reported, by those who read the topic for its content
        if isinstance(said, Withdrawal) or said.state != "listed":
            self._freshness.withdrawn(said.item_id, at_s)
        elif said.available_from is None and said.available_until is None:
            self._freshness.listed(said.item_id, at_s)  # else it waits for its time, not for us
