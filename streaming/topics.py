"""The topics of the pipeline: names, partitions, and settings that keep old records alive."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path

from kafka.admin import KafkaAdminClient, NewTopic
from kafka.errors import KafkaError, KafkaTimeoutError, TopicAlreadyExistsError

from streaming.errors import KafkaUnavailable
from streaming.kafka_clients import KafkaConnection
from streaming.topic_identity import check_before_creation

KEEP_FOREVER = {"retention.ms": "-1", "retention.bytes": "-1"}
# Kafka deletes by *record* time: with the event times of 2002-2014 its default retention would
# empty a topic within minutes.
COMPACTED = {"cleanup.policy": "compact"}
# Who reads `items` from its beginning, however late, has to learn what was withdrawn: a century.
KEEP_TOMBSTONES = {"delete.retention.ms": str(100 * 365 * 86_400_000)}
LEADER_SECONDS = 30.0
KAFKA_PATIENCE_SECONDS = 300.0


@dataclass(frozen=True)
class Topics:
    """Topic names; several pipelines share a broker by using other names."""

    items: str = "items"
    items_dlq: str = "items.dlq"
    clicks: str = "clicks"
    clicks_late: str = "clicks.late"
    clicks_dlq: str = "clicks.dlq"
    sequences: str = "sequences"
    snapshots: str = "snapshots"

    def prefixed(self, prefix: str) -> Topics:
        """The same topics with `prefix` before each name."""
        return Topics(**{f.name: prefix + getattr(self, f.name) for f in fields(self)})

    def new_topics(self, partitions: int, replication: int = 1) -> Iterator[NewTopic]:
        """Definitions to create; `clicks` and `sequences` are spread over `partitions`."""
        for name, count, config in (
            (self.items, 1, COMPACTED | KEEP_TOMBSTONES),
            (self.items_dlq, 1, KEEP_FOREVER),
            (self.clicks, partitions, KEEP_FOREVER),
            (self.clicks_late, 1, KEEP_FOREVER),
            (self.clicks_dlq, 1, KEEP_FOREVER),
            (self.sequences, partitions, KEEP_FOREVER),
            (self.snapshots, 1, COMPACTED),
        ):
            yield NewTopic(
                name=name,
                num_partitions=count,
                replication_factor=replication,
                topic_configs=config,
            )


def create_topics(
    admin: KafkaAdminClient, topics: Topics, *, partitions: int = 1, replication: int = 1
) -> list[str]:
    """Create the topics that do not exist yet; returns their names.

    Raises:
        KafkaError: a topic could not be created, or has no leaders `LEADER_SECONDS` later.
    """
    existing = set(admin.list_topics())
    missing = [t for t in topics.new_topics(partitions, replication) if t.name not in existing]
    created = []
    for topic in missing:
        with suppress(TopicAlreadyExistsError):  # another part was quicker
            admin.create_topics([topic])
            created.append(topic.name)
    _wait_for_leaders(admin, missing)
    return created


def create_missing(
    kafka: KafkaConnection,
    data_dir: Path,
    topics: Topics,
    *,
    partitions: int = 1,
    replication: int = 1,
) -> list[str]:
    """Create the topics that do not exist yet, in the Kafka of a data directory; see above.

    Raises:
        KafkaError: if Kafka does not answer, or a topic could not be created.
        ForeignKafkaError: if it is not the Kafka that the data directory's state comes from.
    """
    admin = kafka.admin()
    try:
        check_before_creation(data_dir, admin, f"the Kafka at {kafka.bootstrap}")
        return create_topics(admin, topics, partitions=partitions, replication=replication)
    finally:
        admin.close()


def await_topics(
    kafka: KafkaConnection,
    data_dir: Path,
    topics: Topics,
    stop: threading.Event,
    waiting: Callable[[], object],
    *,
    partitions: int = 1,
    replication: int = 1,
) -> bool:
    """Wait for Kafka and create the topics that are missing; False if told to stop meanwhile.

    Raises:
        KafkaUnavailable: if it does not answer for `KAFKA_PATIENCE_SECONDS`.
        ForeignKafkaError: if it is not the Kafka that the data directory's state comes from.
    """
    began = time.monotonic()
    while not stop.is_set():
        try:
            create_missing(kafka, data_dir, topics, partitions=partitions, replication=replication)
            return True
        except KafkaError as error:
            waited = time.monotonic() - began
            if waited > KAFKA_PATIENCE_SECONDS:
                raise KafkaUnavailable(
                    f"no Kafka at {kafka.bootstrap} for {waited:.0f} s ({error}); start it, or "
                    "correct [kafka] bootstrap"
                ) from error
        waiting()
        stop.wait(0.5)
    return False


def _wait_for_leaders(admin: KafkaAdminClient, topics: Sequence[NewTopic]) -> None:
    """Wait until every partition can be read and written.

    The job would take a partition that it does not see at its start for one that was added later:
    what had been written to it meanwhile might count as late.
    """
    until = time.monotonic() + LEADER_SECONDS
    led: dict[str, int] = {}
    while topics:
        for told in admin.describe_topics([topic.name for topic in topics]):
            led[told["name"]] = sum(part["leader_id"] >= 0 for part in told["partitions"])
        topics = [topic for topic in topics if led.get(topic.name, 0) < topic.num_partitions]
        if not topics:
            return
        if time.monotonic() > until:
            raise KafkaTimeoutError(f"no leaders for {', '.join(topic.name for topic in topics)}")
        time.sleep(0.05)
