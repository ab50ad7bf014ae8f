"""A topic of which only committed records are seen, at offsets that the caller keeps.

Transaction markers and aborted records take offsets but are never seen; the position behind them
is what counts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from kafka import TopicPartition

from streaming.errors import KafkaUnavailable, StreamingError
from streaming.kafka_clients import SHORT, KafkaConnection

Ranges = Mapping[int, tuple[int, int]]
"""Partition -> first offset, and the offset after the last."""


class TopicEndsBefore(StreamingError):  # noqa: N818 - says what the topic does
    """A topic ends before an offset that was read in it: it was recreated since."""

    def __init__(self, topic: str, partition: int, offset: int, end: int) -> None:
        super().__init__(f"{topic} partition {partition} ends at {end}, before offset {offset}")
        self.topic, self.partition, self.offset, self.end = topic, partition, offset, end


class CommittedTopic:
    """One topic: read on from given offsets, or read given ranges again.

    Records are kafka-python's. Every method may raise `KafkaError` or `KafkaUnavailable`; the
    object is then to be closed and made anew.

    Args:
        kafka: where the topic is.
        topic: its name.
        max_records: of one partition that a poll returns at most.
        patience_ms: how long the broker may take to answer before it counts as away.
        whole: offsets that are not in the topic any more are an error; else it is read from its
            present beginning.
        wanted: whether a partition is read; by default all are.
        fetch_wait_ms: how long the broker waits for records. It answers a connection in turn:
            behind a fetch that waits, so does a question for the end of a partition.
    """

    def __init__(
        self,
        kafka: KafkaConnection,
        topic: str,
        max_records: int,
        patience_ms: int,
        *,
        whole: bool = False,
        fetch_wait_ms: int = 100,
        wanted: Callable[[int], bool] = lambda _: True,
    ) -> None:
        self._wanted = wanted
        self._topic = topic
        self._max_records = max_records
        self._patience_ms = patience_ms
        self._fetch_wait_ms = fetch_wait_ms
        self._consumer = kafka.consumer(
            **SHORT,
            auto_offset_reset="none" if whole else "earliest",
            max_poll_records=max_records,
            fetch_max_wait_ms=fetch_wait_ms,
        )
        self._partitions: list[TopicPartition] = []
        self._assigned: list[TopicPartition] = []
        self._positions: dict[int, int] = {}
        self._ahead: dict[int, deque[Any]] = {}  # fetched behind the ranges that were read
        self._read_to: dict[int, int] = {}

    def close(self) -> None:
        """Close the connection."""
        self._consumer.close()

    def seek(self, offsets: Mapping[int, int]) -> None:
        """Read on at these offsets; partitions that are not named start at 0."""
        self._partitions, self._assigned, self._positions = [], [], {}
        self._ahead, self._read_to = {}, {}
        self._discover()
        self._positions |= offsets
        self._assign(self._partitions)

    def _discover(self) -> None:
        """Look which partitions the topic has now; new ones are read from their beginning."""
        numbers = self._consumer.partitions_for_topic(self._topic)
        if not numbers:
            raise KafkaUnavailable(
                f"Kafka has no topic {self._topic!r} yet, or does not answer "
                f"(at {self._consumer.config['bootstrap_servers']})"
            )
        wanted = sorted(filter(self._wanted, numbers))
        self._partitions = [TopicPartition(self._topic, p) for p in wanted]
        for tp in self._partitions:
            self._positions.setdefault(tp.partition, 0)

    def _assign(self, partitions: list[TopicPartition]) -> None:
        # Not pause(): in kafka-python 3.0.12 a paused partition with fetched records may never
        # be fetched again after resume(), when the slot for records in turn is not empty.
        if partitions == self._assigned:
            return
        added = set(partitions) - set(self._assigned)
        self._consumer.assign(partitions)
        for tp in added:
            self._consumer.seek(tp, self._positions[tp.partition])
        self._assigned = partitions

    def _position(self, tp: TopicPartition) -> int:
        position = self._consumer.position(tp, timeout_ms=self._patience_ms)
        if position is None:
            raise KafkaUnavailable(f"Kafka does not answer ({tp.topic} {tp.partition})")
        return int(position)

    def positions(self) -> dict[int, int]:
        """Partition -> offset after all that was returned, markers included."""
        return dict(self._positions)

    def ends(self) -> dict[int, int]:
        """Partition -> end of what is committed."""
        self._discover()
        ends = self._consumer.end_offsets(self._partitions, timeout_ms=self._patience_ms)
        return {tp.partition: int(end) for tp, end in ends.items()}

    def skip_deleted(self) -> dict[int, int]:
        """Go on where the topic begins, if that is later; partition -> offsets passed over."""
        first = self._consumer.beginning_offsets(self._partitions)
        passed = {}
        for tp in self._partitions:
            position = self._positions[tp.partition]
            if position < first[tp]:
                self._positions[tp.partition] = int(first[tp])
                self._consumer.seek(tp, int(first[tp]))
                passed[tp.partition] = int(first[tp]) - position
        return passed

    def poll(self, timeout_ms: int, enough: Collection[int] = ()) -> dict[int, list[Any]]:
        """Read on, from every partition that has something, but not from those in `enough`."""
        self._assign([tp for tp in self._partitions if tp.partition not in enough])
        found: dict[int, list[Any]] = {}
        for _ in self._assigned:  # one call mostly returns records of one partition
            fetched = self._consumer.poll(0 if found else timeout_ms, max_records=self._max_records)
            if not fetched:
                break
            for tp, records in fetched.items():
                found.setdefault(tp.partition, []).extend(records)
        self._positions |= {tp.partition: self._position(tp) for tp in self._assigned}
        return found

    def check(self, ends: Mapping[int, int]) -> None:
        """Refuse a position beyond the end: the topic is not the one that was read.

        Raises:
            TopicEndsBefore: naming the partition.
        """
        for partition, position in self._positions.items():
            if partition in ends and position > ends[partition]:
                raise TopicEndsBefore(self._topic, partition, position, ends[partition])

    def read(self, ranges: Ranges) -> dict[int, list[Any]]:
        """Exactly the records of these ranges, whatever gaps they have, that were not deleted.

        What was fetched behind a range is kept for the next call, which mostly goes on there.
        `seek` before polling again.

        Raises:
            TopicEndsBefore: if a range reaches beyond the end.
        """
        wanted = {p: (start, end) for p, (start, end) in ranges.items() if start < end}
        for partition, (start, _) in wanted.items():
            if self._read_to.get(partition) != start:
                tp = TopicPartition(self._topic, partition)
                first = int(self._consumer.beginning_offsets([tp])[tp])
                self._ahead[partition] = deque()
                self._positions[partition] = max(start, first)
                self._assigned = [tp for tp in self._assigned if tp.partition != partition]
        self._assign([TopicPartition(self._topic, p) for p in sorted(self._ahead)])
        silent = 0
        while missing := self._short(wanted):
            fetched = self._consumer.poll(self._fetch_wait_ms, max_records=self._max_records)
            for tp, records in fetched.items():
                self._ahead[tp.partition].extend(records)
            silent = 0 if fetched else silent + 1
            if silent * self._fetch_wait_ms >= self._patience_ms:
                self._explain_silence(missing)
        found: dict[int, list[Any]] = {partition: [] for partition in ranges}
        for partition, (_, end) in wanted.items():
            ahead = self._ahead[partition]
            while ahead and ahead[0].offset < end:
                found[partition].append(ahead.popleft())
            self._read_to[partition] = end
        return found

    def _short(self, wanted: Ranges) -> dict[TopicPartition, int]:
        """The partitions, and ends, of ranges that were not fetched to their end yet."""
        partitions = {TopicPartition(self._topic, p): end for p, (_, end) in wanted.items()}
        return {tp: end for tp, end in partitions.items() if self._position(tp) < end}

    def _explain_silence(self, missing: Mapping[TopicPartition, int]) -> None:
        ends = self._consumer.end_offsets(list(missing), timeout_ms=self._patience_ms)
        for tp, end in missing.items():
            if ends[tp] < end:
                raise TopicEndsBefore(self._topic, tp.partition, end, ends[tp])
        raise KafkaUnavailable(f"Kafka sends nothing of {self._topic}")


def read_all(kafka: KafkaConnection, topic: str) -> Iterator[Any]:
    """Every committed record of a topic, up to its end as of now; none if there is no topic.

    Raises:
        KafkaUnavailable: if Kafka does not answer.
    """
    with kafka.answering():
        reader = kafka.consumer(
            max_poll_records=5000, fetch_max_bytes=32 << 20, max_partition_fetch_bytes=8 << 20
        )
        try:
            partitions = [
                TopicPartition(topic, p) for p in reader.partitions_for_topic(topic) or ()
            ]
            if not partitions:
                return
            reader.assign(partitions)
            reader.seek_to_beginning(*partitions)
            ends = reader.end_offsets(partitions)
            while any((reader.position(p) or 0) < ends[p] for p in partitions):
                for records in reader.poll(timeout_ms=500).values():
                    yield from records
        finally:
            reader.close()
