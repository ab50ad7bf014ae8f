"""Deletes from the topics what everybody has read: sooner than `[privacy] keep_days` does it.

Of `clicks` that is what the job's last checkpoint covers, of `sequences` what the trainer's older
checkpoint and every worker of the service have taken in, of late clicks and dead letters all. Kafka
deletes from the beginning of a partition, so what goes is everybody's, not one user's.

A file of a partition goes only as a whole and once another is begun. So a transaction is given up
in every partition: it leaves a record that nobody sees, and with `segment.ms` of 1 meanwhile that
record begins a file.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from kafka import TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient
from kafka.errors import KafkaError

from deploy.ingest.forgotten_users import ForgottenUsers
from deploy.privacy.history_stores import history_stores
from model.artifacts.numbered import NumberedDirectories
from model.training.micro_batch import SEQUENCES
from streaming.kafka_clients import KafkaConnection
from streaming.topics import Topics, alter_topics

SETTLE_S = 1.0
"""A topic's new setting reaches its broker in a moment."""
SEGMENT = "segment.ms"
MARKERS_S = 2.0

Offsets = dict[TopicPartition, int]


@dataclass(frozen=True)
class Purged:
    """What was deleted.

    Attributes:
        records: topic -> offsets that were deleted now, those of markers among them.
        waiting: topic -> offsets that somebody has still to read.
    """

    records: dict[str, int]
    waiting: dict[str, int]


def purge(
    data_dir: Path,
    kafka: KafkaConnection,
    topics: Topics,
    group: str,
    sleep: Callable[[float], object] = time.sleep,
) -> Purged:
    """Delete what everybody has read.

    Notes of users who are to be forgotten go with it, if all of `sequences` that any worker has
    read is gone.

    Args:
        data_dir: of the pipeline; without a trainer and a service in it no sequences are deleted.
        kafka: where the topics are.
        topics: their names.
        group: of the Flink job.
        sleep: called with seconds.

    Raises:
        KafkaError: if Kafka does not answer, or does not let us.
    """
    admin = kafka.admin()
    try:
        reader = kafka.consumer(group_id=group)
        try:
            names = (topics.clicks, topics.clicks_late, topics.clicks_dlq, topics.sequences)
            partitions = [
                TopicPartition(name, number)
                for name in names
                for number in sorted(reader.partitions_for_topic(name) or ())
            ]
            first = reader.beginning_offsets(partitions)
            ends = reader.end_offsets(partitions)
            histories = _histories(data_dir, topics.sequences)
            taken = [_trained(data_dir), *histories]

            def read_to(one: TopicPartition) -> int:
                if one.topic == topics.clicks:
                    return reader.committed(one) or 0
                if one.topic == topics.sequences:
                    if not histories:
                        return 0
                    return min(offsets.get(one.partition, 0) for offsets in taken)
                return int(ends[one])

            until = {p: min(read_to(p), ends[p]) for p in partitions}
        finally:
            reader.close(autocommit=False)
        until = {p: _behind_markers(kafka, p, offset, ends[p]) for p, offset in until.items()}
        until = {p: max(offset, first[p]) for p, offset in until.items()}
        noted = ForgottenUsers(data_dir)
        before = {user: noted.asked(user) for user in noted.users()}
        _begin_files(kafka, admin, until, sleep)
        admin.delete_records(until)
    finally:
        admin.close()
    newest = {p.partition: o for p, o in until.items() if p.topic == topics.sequences}
    if histories and all(
        newest.get(partition, 0) >= offset
        for offsets in histories
        for partition, offset in offsets.items()
    ):
        noted.drop(before)
    return Purged(
        _by_topic({p: until[p] - first[p] for p in partitions}),
        _by_topic({p: ends[p] - until[p] for p in partitions}),
    )


def _by_topic(counts: Mapping[TopicPartition, int]) -> dict[str, int]:
    found: dict[str, int] = {}
    for partition, count in counts.items():
        found[partition.topic] = found.get(partition.topic, 0) + count
    return found


def _trained(data_dir: Path) -> dict[int, int]:
    """Partition of `sequences` -> offset that the oldest checkpoint of the trainer goes on at."""
    checkpoints = NumberedDirectories(data_dir / "trainer" / "checkpoints", digits=12)
    for number in checkpoints.numbers():
        meta = orjson.loads((checkpoints.path(number) / "meta.json").read_bytes())
        offsets = meta["trainer"]["offsets"][SEQUENCES]
        return {int(partition): int(offset) for partition, offset in offsets.items()}
    return {}


def _histories(data_dir: Path, topic: str) -> list[dict[int, int]]:
    """Of every worker's histories the next offset of each partition of `sequences`."""
    found = []
    for _, families in history_stores(data_dir):
        pairs: Iterable[tuple[Any, Any]] = families["offsets"].items()
        stored = dict(pairs)
        prefix = f"{topic}/".encode()
        found.append(
            {
                int(key.removeprefix(prefix)): int(offset)
                for key, offset in stored.items()
                if key.startswith(prefix)
            }
        )
    return found


def _behind_markers(
    kafka: KafkaConnection, partition: TopicPartition, offset: int, end: int
) -> int:
    """`end`, if there are but ends of transactions between the two: nobody is to read those."""
    if offset >= end:
        return end
    reader = kafka.consumer()
    try:
        reader.assign([partition])
        reader.seek(partition, offset)
        until = time.monotonic() + MARKERS_S
        while time.monotonic() < until and (reader.position(partition) or 0) < end:
            if reader.poll(timeout_ms=200):
                return offset
        return end if (reader.position(partition) or 0) >= end else offset
    finally:
        reader.close()


def _begin_files(
    kafka: KafkaConnection,
    admin: KafkaAdminClient,
    partitions: Iterable[TopicPartition],
    sleep: Callable[[float], object],
) -> None:
    """Have every partition begin a file, by a record that nobody sees."""
    names = sorted({partition.topic for partition in partitions})
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    told = admin.describe_configs(resources, config_filter="all")["topic"]
    if denied := [name for name in names if SEGMENT not in told.get(name, {})]:
        raise KafkaError(f"settings of {', '.join(denied)} cannot be read")
    before = {name: {SEGMENT: str(told[name][SEGMENT]["value"])} for name in names}
    alter_topics(admin, {name: {SEGMENT: "1"} for name in names})
    try:
        sleep(SETTLE_S)
        producer = kafka.producer(transactional_id=f"sparc-purge-{uuid.uuid4()}")
        try:
            producer.init_transactions()
            producer.begin_transaction()
            for partition in partitions:
                producer.send(partition.topic, b"", partition=partition.partition)
            producer.flush()
            producer.abort_transaction()
        finally:
            producer.close(timeout=2)
    finally:
        alter_topics(admin, before)
