"""Accounts of a pipeline: what entered `clicks`, and where each record of it went.

    clicks = sequences + late + duplicates + dead letters + forgotten + lost

Everything is counted from the topics themselves, by readers that see committed records only, so
nothing depends on counters that a crash could reset.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from streaming.bounds import EventError
from streaming.committed_topic import read_all
from streaming.events import FORGET, NO_CLICKS, Click, Forgotten, parse_sequence
from streaming.job.flink_rest import FlinkRest
from streaming.kafka_clients import KafkaConnection
from streaming.topics import Topics

FEW = 10_000
"""So few offsets may be heartbeats, ends of transactions, or what was given up, and no clicks."""


@dataclass(frozen=True)
class Accounts:
    """Counts of committed records; `clicks` without heartbeats and requests to forget.

    Where Kafka has `deleted` records of one of the topics, as they are older than they are kept,
    what is left does not add up, and nothing is known to be lost.

    `duplicates` are the clicks whose event id an earlier one carries, of those since their user was
    forgotten, if ever. `forgotten` ones waited in the job when their user was.
    """

    clicks: int
    sequences: int
    late: int
    dead_letters: int
    duplicates: int
    forgotten: int = 0
    deleted: bool = False

    @property
    def lost(self) -> int:
        """Clicks that went nowhere; negative if something came out twice."""
        if self.deleted:
            return 0
        aside = self.late + self.dead_letters + self.duplicates + self.forgotten
        return self.clicks - self.sequences - aside


def _origin(record: Any) -> tuple[int, int] | None:
    """Partition and offset in `clicks` of a dead letter, by its headers."""
    headers = dict(record.headers)
    try:
        return int(headers["partition"]), int(headers["offset"])
    except (KeyError, ValueError):
        return None  # somebody else's record


def _click(value: bytes | None) -> Click | None:
    """The click of a record; None where it is none that can be read."""
    try:
        return Click.from_bytes(value)
    except EventError:
        return None


def _may_be_click(value: bytes | None) -> bool:
    click = _click(value)
    return click is None or click.event_type not in NO_CLICKS


def _sequences(kafka: KafkaConnection, topics: Topics) -> tuple[int, int]:
    """How many sequences there are, and how many clicks were forgotten while they waited."""
    count = dropped = 0
    for record in read_all(kafka, topics.sequences):
        if FORGET.encode() in (record.value or b""):  # in an event id, too: so it is parsed
            with suppress(EventError):
                said = parse_sequence(None, record.value)
                if isinstance(said, Forgotten):
                    dropped += said.dropped
                    continue
        count += 1
    return count, dropped


def count(kafka: KafkaConnection, topics: Topics) -> Accounts:
    """Count the topics; reads all of them, about 30,000 records per second.

    Raises:
        KafkaUnavailable: if Kafka does not answer.
    """
    dead = [_origin(record) for record in read_all(kafka, topics.clicks_dlq)]
    late = sum(1 for _ in read_all(kafka, topics.clicks_late))
    sequences, forgotten = _sequences(kafka, topics)
    origins = set(dead)
    clicks = duplicates = 0
    seen: set[str] = set()
    lives: dict[int, int] = {}  # how often a user was forgotten
    for record in read_all(kafka, topics.clicks):
        click = None
        if (record.partition, record.offset) not in origins:
            click = _click(record.value)
        if click is not None and click.event_type in NO_CLICKS:
            if click.event_type == FORGET:
                lives[click.user_id] = lives.get(click.user_id, 0) + 1
            continue
        clicks += 1
        if click is None:
            continue
        life = lives.get(click.user_id, 0)
        identity = f"{click.event_id} {life}" if life else click.event_id
        duplicates += identity in seen
        seen.add(identity)
    deleted = _some_deleted(kafka, topics)  # also if it was while the topics were read
    return Accounts(clicks, sequences, late, len(dead), duplicates, forgotten, deleted)


def _some_deleted(kafka: KafkaConnection, topics: Topics) -> bool:
    with kafka.answering():
        reader = kafka.consumer()
        try:
            partitions = [
                TopicPartition(topic, number)
                for topic in (
                    topics.clicks, topics.clicks_late, topics.clicks_dlq, topics.sequences
                )
                for number in reader.partitions_for_topic(topic) or ()
            ]  # fmt: skip
            return any(first > 0 for first in reader.beginning_offsets(partitions).values())
        finally:
            reader.close()


class Aside:
    """Counts what the job has put aside, late clicks and dead letters, as the topics grow.

    Offsets would not do: the end of every transaction takes one. What is there at first is counted
    a little at a time; until that is done the counts are unknown, so that they never go back.
    """

    PATIENCE_SECONDS = 0.25
    """Spent in one look; about 8,000 records."""

    def __init__(self, kafka: KafkaConnection, topics: Topics) -> None:
        with kafka.answering():
            self._reader = kafka.consumer(max_poll_records=5000, fetch_max_wait_ms=20)
        self._names = {topics.clicks_late: "late", topics.clicks_dlq: "dead_letters"}
        self._counts = dict.fromkeys(self._names.values(), 0)
        self._complete = False

    def counts(self) -> dict[str, int | None]:
        """`late` and `dead_letters` since the topics began; None while they are not known yet."""
        with suppress(KafkaError):
            self._read()
        return {name: n if self._complete else None for name, n in self._counts.items()}

    def _read(self) -> None:
        if not self._reader.assignment():
            partitions = [
                TopicPartition(topic, number)
                for topic in self._names
                for number in self._reader.partitions_for_topic(topic) or ()
            ]
            if not partitions:
                return
            self._reader.assign(partitions)
            self._reader.seek_to_beginning(*partitions)
        until = time.monotonic() + self.PATIENCE_SECONDS
        while time.monotonic() < until:
            polled = self._reader.poll(timeout_ms=50)
            if not polled:
                break
            for partition, records in polled.items():
                self._counts[self._names[partition.topic]] += len(records)
        if not self._complete:
            ends = self._reader.end_offsets(list(self._reader.assignment()))
            self._complete = all((self._reader.position(p) or 0) >= end for p, end in ends.items())

    def close(self) -> None:
        """Close the connection."""
        self._reader.close(autocommit=False)


class StreamEnd:
    """Tells whether the job has emitted and committed everything of `clicks` as it is now.

    That is so when a checkpoint covers the end of `clicks`, two more checkpoints have completed
    since (watermarks travel between barriers, and a commit follows its checkpoint), and no
    transaction is open on `sequences`. Or when the topics account for every click: the job tells of
    its checkpoints through a Kafka client that goes by the wall clock, and falls silent for as long
    as that was put back by. Counting costs with the log, so it is done only where nothing has come
    out for `QUIET_SECONDS` while the job seems to have more to read.
    """

    QUIET_SECONDS = 20.0

    def __init__(
        self,
        kafka: KafkaConnection,
        topics: Topics,
        group: str,
        flink: FlinkRest,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._topics = topics
        self._flink = flink
        self._count = lambda: count(kafka, topics)
        self._clock = clock
        self._came_out: tuple[dict[Any, int], float] = ({}, 0.0)
        with kafka.answering():
            self._committed = kafka.consumer(group_id=group)
            self._raw = kafka.consumer(isolation_level="read_uncommitted")
            self._reader = kafka.consumer()
        self._covered_at: tuple[str, int] | None = None
        # the offsets between which a look found so many clicks; None: seen once, not looked into
        self._looked: dict[TopicPartition, tuple[tuple[int, int], int | None]] = {}

    def lag(self) -> int:
        """Clicks that no completed checkpoint covers."""
        return sum(self._behind(p, *between) for p, between in self._uncovered().items())

    def _uncovered(self) -> dict[TopicPartition, tuple[int, int]]:
        """What is covered of each partition of `clicks`, and its end, as offsets."""
        partitions = self._partitions(self._raw, self._topics.clicks)
        ends = self._raw.end_offsets(partitions)
        return {p: (self._committed.committed(p) or 0, ends[p]) for p in partitions}

    def _behind(self, partition: TopicPartition, covered: int, end: int) -> int:
        """How many clicks lie between two offsets; where many do, or they move, how many offsets.

        The last offsets of a partition may be ends of transactions and heartbeats, and the job
        remembers the place of the last record that it read only once it reads another one.
        """
        now = (covered, end)
        before, clicks = self._looked.get(partition, (None, None))
        if not 0 < end - covered <= FEW or before != now:  # what still moves is looked at later
            self._looked[partition] = (now, None)
            return end - covered
        if clicks is None:
            clicks = self._clicks(partition, covered, end)
            self._looked[partition] = (now, clicks)
        return clicks

    def _clicks(self, partition: TopicPartition, first: int, end: int) -> int:
        """Records that may be clicks; by a reader of its own, which may look at any place."""
        self._reader.assign([partition])
        self._reader.seek(partition, first)
        found, until = 0, time.monotonic() + 1.0
        while (self._reader.position(partition) or 0) < end:
            for records in self._reader.poll(timeout_ms=200).values():
                found += sum(_may_be_click(one.value) for one in records)
            if time.monotonic() > until:
                return end - first
        return found

    @staticmethod
    def _partitions(reader: KafkaConsumer, topic: str) -> list[TopicPartition]:
        return [TopicPartition(topic, p) for p in reader.partitions_for_topic(topic) or ()]

    def reached(self, job_name: str) -> bool:
        """Look once.

        Raises:
            KafkaError, KafkaUnavailable, FlinkUnavailable: if one of them does not answer.
        """
        jobs = [j for j, s in self._flink.jobs(job_name) if s == "RUNNING"]
        if not jobs:
            self._covered_at = None
            return False
        if any(end > covered for covered, end in self._uncovered().values()):
            self._covered_at = None
            return self._quiet() and self._nothing_open() and self._count().lost == 0
        completed = self._flink.checkpoints(jobs[0]).completed
        if self._covered_at is None or self._covered_at[0] != jobs[0]:
            self._covered_at = (jobs[0], completed)
        return completed >= self._covered_at[1] + 2 and self._nothing_open()

    def _ends(self, reader: KafkaConsumer) -> dict[TopicPartition, int]:
        """The ends of what the job writes, as a reader sees them."""
        topics = (self._topics.sequences, self._topics.clicks_late, self._topics.clicks_dlq)
        partitions = [p for topic in topics for p in self._partitions(reader, topic)]
        return dict(reader.end_offsets(partitions))

    def _nothing_open(self) -> bool:
        return self._ends(self._raw) == self._ends(self._committed)

    def _quiet(self) -> bool:
        """Whether nothing came out for `QUIET_SECONDS`; said once in so many seconds."""
        ends, now = self._ends(self._committed), self._clock()
        if ends == self._came_out[0] and now - self._came_out[1] < self.QUIET_SECONDS:
            return False
        quiet = ends == self._came_out[0]
        self._came_out = (ends, now)
        return quiet

    def sequence_ends(self) -> dict[int, int]:
        """Partition of `sequences` -> the offset after what is committed; raises KafkaError."""
        partitions = self._partitions(self._committed, self._topics.sequences)
        ends = self._committed.end_offsets(partitions)
        return {p.partition: int(end) for p, end in ends.items()}

    def close(self) -> None:
        """Close the connections."""
        self._committed.close(autocommit=False)
        self._raw.close()
        self._reader.close()
