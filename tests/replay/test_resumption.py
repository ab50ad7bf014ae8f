"""Kills at any point, in a simulated topic: nothing lost, nothing twice."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st
from kafka import TopicPartition

from replay import resumption
from replay.producer import POSITION
from replay.resumption import Mark, Stored

CHUNK = 8


@dataclass
class Topic:
    """Partitions of (headers, value), and the consumer that reads them."""

    partitions: list[list[tuple[list, bytes]]]
    start: int = 0
    at: dict[TopicPartition, int] = field(default_factory=dict)

    def partitions_for_topic(self, topic):
        return set(range(len(self.partitions)))

    def beginning_offsets(self, partitions):
        return {p: 0 for p in partitions}

    def end_offsets(self, partitions):
        return {p: len(self.partitions[p.partition]) for p in partitions}

    def assign(self, partitions):
        self.at = {}

    def seek(self, partition, offset):
        self.at[partition] = offset

    def position(self, partition):
        return self.at[partition]

    def poll(self, timeout_ms):
        ((partition, offset),) = self.at.items()
        records = self.partitions[partition.partition][offset : offset + 3]
        self.at[partition] = offset + len(records)
        return {
            partition: [
                SimpleNamespace(offset=offset + k, headers=headers, value=value)
                for k, (headers, value) in enumerate(records)
            ]
        }

    def find(self) -> Stored:
        reader = resumption._Reader(self, 1.0)
        return resumption._find(reader, "clicks", mark, lambda seconds: None)

    def append(self, partition: int, position: int, value: bytes) -> None:
        self.partitions[partition].append(([(POSITION, b"%d" % position)], value))

    def clicks(self) -> list[int]:
        return sorted(
            int(value) for records in self.partitions for _, value in records if value.isdigit()
        )


def mark(value: bytes) -> Mark:
    return Mark(value.decode() if value.isdigit() else None, 0)


def produce(topic: Topic, length: int, draw) -> None:
    """What a producer does that is killed at a random point, if it does not come to the end.

    Of the chunk in flight each partition has stored a part: a prefix, or one with gaps.
    """
    stored = topic.find()
    assert stored.count <= length
    missing = [p for p in range(stored.complete, length) if p not in stored.present]
    dies_in = draw(st.one_of(st.none(), st.integers(0, length)))
    for chunk in range(stored.complete // CHUNK, (length - 1) // CHUNK + 1):
        todo = [p for p in missing if p // CHUNK == chunk]
        dying = dies_in is not None and dies_in // CHUNK == chunk
        for position in todo:
            if not dying or draw(st.booleans()):
                partition = position * 7 % len(topic.partitions)
                topic.append(partition, position, b"%d" % position)
        if dying:
            return
        if draw(st.booleans()):  # heartbeats, once everything before is stored
            last = min((chunk + 1) * CHUNK, length) - 1
            for partition in range(len(topic.partitions)):
                topic.append(partition, last, b"heartbeat")
        if draw(st.booleans()):
            topic.partitions[0].append(([], b"another producer's"))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_is_killed_when_every_event_is_stored_once(data):
    original, resumption.CHUNK = resumption.CHUNK, CHUNK
    try:
        length = data.draw(st.integers(1, 60))
        topic = Topic([[] for _ in range(data.draw(st.integers(1, 4)))])
        for _ in range(data.draw(st.integers(0, 4))):
            produce(topic, length, data.draw)
            if data.draw(st.booleans()):
                topic.partitions.append([])  # somebody adds a partition
        produce(topic, length, lambda strategy: None if strategy is not None else None)
        assert topic.clicks() == list(range(length))
        assert topic.find().count == length
    finally:
        resumption.CHUNK = original


def test_an_empty_topic_holds_nothing():
    assert Topic([[], []]).find() == Stored()


def test_foreign_records_are_passed_over():
    topic = Topic([[([], b"not ours")] * 100 + [([("log_position", b"x")], b"1")]])
    assert topic.find() == Stored()


def test_the_times_of_the_last_records_are_told(monkeypatch):
    topic = Topic([[], [], []])
    topic.append(0, 3, b"3")
    topic.append(2, 4, b"4")
    reader = resumption._Reader(topic, 1.0)
    found = resumption._find(reader, "t", lambda v: Mark(v.decode(), int(v) * 10), lambda s: None)
    assert found.newest_ms == {0: 30, 2: 40}
    assert found.present == {3: "3", 4: "4"}
