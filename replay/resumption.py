"""How far a log has got, found out from Kafka itself.

The rule that makes it possible: the producer waits for all of a chunk (`CHUNK` consecutive log
positions) to be stored before it sends the first record of the next one. So, with the highest
position found at the ends of the partitions, every chunk below that one is complete, and of that
one chunk the records are read back to see which are there. Only what is missing is sent again.
It holds for any number of partitions, also when their number has changed, and also when a record
of the chunk was refused while later ones were stored.

Records without a position (another producer's) are passed over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaTimeoutError

from replay.producer import BOOTSTRAP_MS, POSITION, Patience

R = TypeVar("R")

CHUNK = 8192
"""Positions between two barriers. A replay resumes with the value that it was started with, so it
is no setting; raise it only to a multiple."""
FIRST_WINDOW = 64
SETTLED_SECONDS = 0.5
POLL_MS = 200


@dataclass(frozen=True)
class Stored:
    """What a topic holds of a log.

    Attributes:
        complete: all positions below are stored; a multiple of `CHUNK`.
        present: stored positions from there on, each with what identifies its record.
        newest_ms: per partition, the time of the last record that has a position.
        deleted: whether records at the beginning of a partition are gone.
    """

    complete: int = 0
    present: dict[int, str] = field(default_factory=dict)
    newest_ms: dict[int, int] = field(default_factory=dict)
    deleted: bool = False

    @property
    def count(self) -> int:
        """Number of records stored."""
        return self.complete + len(self.present)


@dataclass(frozen=True)
class Mark:
    """What a record says of itself.

    Attributes:
        identity: of the event or item; None for a heartbeat.
        time_ms: the time that it carries.
    """

    identity: str | None
    time_ms: int


def _position(headers: list[tuple[str, bytes]]) -> int | None:
    for name, value in headers:
        if name == POSITION and value.isdigit():
            return int(value)
    return None


def poll_on(consumer: Any, partitions: Sequence[TopicPartition], patience_ms: int) -> Any:
    """The next records, by partition; none where a transaction's marker was all there was.

    Raises:
        KafkaTimeoutError: if nothing comes in time.
    """
    before = [consumer.position(p) for p in partitions]
    until = time.monotonic() + patience_ms / 1000
    while True:
        polled = consumer.poll(timeout_ms=POLL_MS)
        if polled or [consumer.position(p) for p in partitions] != before:
            return polled
        if time.monotonic() >= until:
            raise KafkaTimeoutError(f"no records of {partitions[0].topic} come")


class _Reader:
    """Reads a topic backwards, in growing windows."""

    def __init__(self, consumer: Any, patience_seconds: float) -> None:
        self._consumer = consumer
        self._patience_ms = int(patience_seconds * 1000)

    def offsets(self, topic: str) -> dict[TopicPartition, tuple[int, int]]:
        """First offset and end of every partition."""
        numbers = self._consumer.partitions_for_topic(topic) or ()
        partitions = [TopicPartition(topic, number) for number in sorted(numbers)]
        first = self._consumer.beginning_offsets(partitions)
        end = self._consumer.end_offsets(partitions)
        return {p: (first[p], end[p]) for p in partitions}

    def _window(self, partition: TopicPartition, start: int, end: int) -> list[tuple[int, bytes]]:
        self._consumer.assign([partition])
        self._consumer.seek(partition, start)
        found = []
        while self._consumer.position(partition) < end:
            answer = poll_on(self._consumer, [partition], self._patience_ms)
            for record in answer.get(partition, ()):
                position = _position(record.headers)
                if position is not None and record.offset < end:
                    found.append((position, record.value))
        return found

    def back(
        self,
        partition: TopicPartition,
        offsets: tuple[int, int],
        enough: Callable[[list[tuple[int, bytes]]], bool],
    ) -> list[tuple[int, bytes]]:
        """(position, value) of the last records, in order, as many as are `enough`, or all."""
        first, end = offsets
        window = FIRST_WINDOW
        while True:
            start = max(first, end - window)
            found = self._window(partition, start, end) if start < end else []
            if start == first or enough(found):
                return found
            window *= 4


def read_patiently(
    patience: Patience, max_records: int, read: Callable[[KafkaConsumer], R], **particular: Any
) -> R:
    """What `read` finds with a consumer of no group, tried again while Kafka is away.

    Args:
        patience: how long to wait for Kafka.
        max_records: of one poll.
        read: is called with the consumer.
        particular: further settings of the consumer.

    Raises:
        ReplayError: if Kafka stays away for too long.
    """

    def attempt() -> R:
        consumer = patience.kafka.consumer(
            bootstrap_timeout_ms=BOOTSTRAP_MS, max_poll_records=max_records, **particular
        )
        try:
            return read(consumer)
        finally:
            consumer.close(autocommit=False)

    return patience.until(attempt)


def find_stored(
    topic: str,
    patience: Patience,
    mark: Callable[[bytes], Mark],
    sleep: Callable[[float], None] = time.sleep,
) -> Stored:
    """Read the ends of a topic's partitions.

    Args:
        topic: must exist.
        patience: how long to wait for Kafka.
        mark: reads a record's value.
        sleep: called with seconds, to see whether a killed producer's last records still arrive.

    Raises:
        ReplayError: if Kafka stays away for too long.
    """
    reply_seconds = min(patience.seconds, 10.0)
    return read_patiently(
        patience,
        CHUNK,
        lambda consumer: _find(_Reader(consumer, reply_seconds), topic, mark, sleep),
        # Behind a transaction that another producer has open lie records of ours, which must not
        # be sent again.
        isolation_level="read_uncommitted",
    )


def _find(
    reader: _Reader, topic: str, mark: Callable[[bytes], Mark], sleep: Callable[[float], None]
) -> Stored:
    offsets = reader.offsets(topic)
    deleted = any(first > 0 for first, _ in offsets.values())
    if all(first == end for first, end in offsets.values()):
        return Stored(deleted=deleted)
    while True:
        sleep(SETTLED_SECONDS)
        before, offsets = offsets, reader.offsets(topic)
        if before == offsets:
            break
    top, newest = -1, {}
    for partition, range_ in offsets.items():
        if last := reader.back(partition, range_, bool):
            top = max(top, last[-1][0])
            newest[partition.partition] = mark(last[-1][1]).time_ms
    complete = max(top, 0) // CHUNK * CHUNK
    present = dict[int, str]()
    for partition, range_ in offsets.items():
        for position, value in reader.back(
            partition, range_, lambda found: any(p < complete for p, _ in found)
        ):
            identity = mark(value).identity
            if position >= complete and identity is not None:
                present[position] = identity
    return Stored(complete, present, newest, deleted)
