from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient, NewPartitions

from model.training import sequence_source
from model.training.backlog import Backlog, assemble
from model.training.micro_batch import ITEMS, SEQUENCES, MicroBatch, Plan, TrainerError
from model.training.sequence_source import SequenceSource
from model.training.source import SourceUnavailable
from streaming.events import UserSequence
from streaming.kafka_clients import KafkaConnection
from streaming.topic_identity import TopicIdentity
from streaming.topics import Topics, create_topics
from tests.model.training.recorded_log import make_log

pytestmark = pytest.mark.end_to_end
_numbers = itertools.count()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequence_source, "PATIENCE_MS", 1500)


class Pipeline:
    """Topics of its own, and a transactional producer for them."""

    def __init__(self, bootstrap: str, partitions: int, folder: Path) -> None:
        self.folder = folder
        name = f"source-{next(_numbers)}-"
        self.bootstrap = bootstrap
        self.topics = Topics().prefixed(name)
        self.admin = KafkaAdminClient(bootstrap_servers=bootstrap)
        create_topics(self.admin, self.topics, partitions=partitions)
        self.producer = KafkaProducer(bootstrap_servers=bootstrap, transactional_id=name)
        self.producer.init_transactions()

    def write(self, topic: str, values: list[bytes], partition: int, commit: bool = True) -> None:
        self.producer.begin_transaction()
        for n, value in enumerate(values):
            self.producer.send(topic, key=b"%d" % n, value=value, partition=partition)
        self.producer.flush()
        if commit:
            self.producer.commit_transaction()
        else:
            self.producer.abort_transaction()

    def source(self, **settings: Any) -> SequenceSource:
        return make_source(self.bootstrap, self.topics, self.folder, **settings)

    def close(self) -> None:
        self.producer.close()
        self.admin.close()


def make_source(bootstrap: str, topics: Topics, folder: Path, **settings: Any) -> SequenceSource:
    names = {SEQUENCES: topics.sequences, ITEMS: topics.items}
    kafka = KafkaConnection(bootstrap, settings)
    return SequenceSource(kafka, topics, TopicIdentity(folder, "trainer", kafka, names))


@pytest.fixture
def pipeline(kafka_broker: Any, tmp_path: Path) -> Iterator[Pipeline]:
    pipeline = Pipeline(kafka_broker.bootstrap, partitions=2, folder=tmp_path)
    yield pipeline
    pipeline.close()


def follow(
    source: SequenceSource, backlog: Backlog, sequences: int, seconds: float = 20
) -> list[MicroBatch]:
    """Cut micro-batches until so many sequences were seen and all is read."""
    batches: list[MicroBatch] = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        seen = sum(len(b.sequences) for b in batches)
        batch = backlog.cut(waited=backlog.exhausted() and seen + backlog.buffered() >= sequences)
        if batch is not None:
            batches.append(batch)
        elif seen >= sequences and backlog.exhausted():
            return batches
        else:
            try:
                backlog.offer(source.poll(backlog.enough()))
            except SourceUnavailable:
                time.sleep(0.2)
    raise AssertionError(f"only {sum(len(b.sequences) for b in batches)} of {sequences} arrived")


def events(batches: list[MicroBatch]) -> list[UserSequence]:
    return [s for b in batches for s in b.sequences]


def in_transactions(pipeline: Pipeline, log: list[list[UserSequence]], size: int) -> None:
    """Write a log in transactions, with aborted ones in between."""
    for partition, sequences in enumerate(log):
        for n in range(0, len(sequences), size):
            values = [s.to_bytes() for s in sequences[n : n + size]]
            aborted = [dataclasses.replace(s, target=99).to_bytes() for s in sequences[n : n + 2]]
            pipeline.write(pipeline.topics.sequences, aborted, partition, commit=False)
            pipeline.write(pipeline.topics.sequences, values, partition)


def test_only_committed_records_are_read_and_ranges_read_again_alike(pipeline: Pipeline) -> None:
    log, items = make_log(100, partitions=2)
    pipeline.write(pipeline.topics.items, [i.to_bytes() for i in items], 0)
    in_transactions(pipeline, log, 7)
    source, backlog = pipeline.source(), Backlog({}, 16, 25)
    batches = follow(source, backlog, 100)
    times = [s.event_time for s in events(batches)]
    assert times == sorted(times)
    assert sorted(events(batches), key=lambda s: s.event_id) == sorted(
        log[0] + log[1], key=lambda s: s.event_id
    )
    assert [i for b in batches for i in b.items] == items
    first = next(n for n, b in enumerate(batches) if b.sequences)
    assert sum(len(b.items) for b in batches[: first + 1]) == len(items)
    assert backlog.lag() == 0
    for batch in batches:
        plan = Plan.from_json(batch.plan.to_json())
        assert assemble(plan, *source.read(plan)) == batch
    # After reading again, following goes on behind the last range.
    ends = {
        stream: {p: end for b in batches for p, (_, end) in getattr(b.plan, stream).items()}
        for stream in (SEQUENCES, ITEMS)
    }
    source.seek(ends)
    more = dataclasses.replace(log[0][-1], event_id="f" * 32)
    pipeline.write(pipeline.topics.sequences, [more.to_bytes()], 0)
    assert events(follow(source, Backlog(ends, 16, 25), 1)) == [more]
    source.close()


def test_an_open_transaction_is_no_lag(pipeline: Pipeline) -> None:
    (sequences, _), _ = make_log(20, partitions=2)
    source, backlog = pipeline.source(), Backlog({}, 16, 25)
    pipeline.producer.begin_transaction()
    for s in sequences[:5]:
        pipeline.producer.send(pipeline.topics.sequences, value=s.to_bytes(), partition=0)
    pipeline.producer.flush()
    assert follow(source, backlog, 0) == []
    assert backlog.lag() == 0
    pipeline.producer.commit_transaction()
    assert events(follow(source, backlog, 5)) == sequences[:5]
    source.close()


def test_poison_is_skipped_and_named(pipeline: Pipeline) -> None:
    (sequences, _), items = make_log(8, partitions=2)
    good = [s.to_bytes() for s in sequences]
    wide = dataclasses.replace(sequences[0], user_id=2**63).to_bytes()
    pipeline.write(pipeline.topics.sequences, [good[0], b"{broken", wide, *good[1:], b"\xff"], 0)
    pipeline.write(pipeline.topics.items, [b"[]", items[0].to_bytes()], 0)
    source, backlog = pipeline.source(), Backlog({}, 16, 25)
    with structlog.testing.capture_logs() as logs:
        batches = follow(source, backlog, len(sequences))
    assert events(batches) == sequences
    assert sum(b.poison for b in batches) == 4
    assert backlog.lag() == 0
    places = {(e["topic"], e["partition"], e["offset"]) for e in logs if "poison" in e["event"]}
    topic = pipeline.topics.sequences
    assert places == {
        (topic, 0, 1),
        (topic, 0, 2),
        (topic, 0, 2 + len(good)),
        (pipeline.topics.items, 0, 0),
    }
    source.close()


def test_partitions_that_are_added_are_read_too(pipeline: Pipeline) -> None:
    log, _ = make_log(30, partitions=3)
    source = pipeline.source(metadata_max_age_ms=300)
    backlog = Backlog({}, 16, 25)
    for partition in (0, 1):
        values = [s.to_bytes() for s in log[partition]]
        pipeline.write(pipeline.topics.sequences, values, partition)
    first = follow(source, backlog, len(log[0]) + len(log[1]))
    pipeline.admin.create_partitions({pipeline.topics.sequences: NewPartitions(3)})
    producer = KafkaProducer(bootstrap_servers=pipeline.bootstrap)
    for s in log[2]:
        producer.send(pipeline.topics.sequences, value=s.to_bytes(), partition=2).get(10)
    producer.close()
    assert events(follow(source, backlog, len(log[2]))) == log[2]
    assert len(events(first)) == len(log[0]) + len(log[1])
    source.close()


def test_a_topic_that_does_not_exist_yet_is_waited_for(kafka_broker: Any, tmp_path: Path) -> None:
    topics = Topics().prefixed("not-yet-")
    source = make_source(kafka_broker.bootstrap, topics, tmp_path)
    with pytest.raises(SourceUnavailable, match="no topic 'not-yet-sequences' yet"):
        source.poll(())
    admin = KafkaAdminClient(bootstrap_servers=kafka_broker.bootstrap)
    create_topics(admin, topics)
    admin.close()
    assert follow(source, Backlog({}, 16, 25), 0) == []
    source.close()


def test_a_topic_that_ends_before_the_offset_is_refused(pipeline: Pipeline) -> None:
    (sequences, _), _ = make_log(20, partitions=2)
    pipeline.write(pipeline.topics.sequences, [s.to_bytes() for s in sequences[:3]], 0)
    source = pipeline.source()
    source.seek({SEQUENCES: {0: 500}})
    with pytest.raises(TrainerError, match="goes on at offset 500.*ends at 4.*--fresh"):
        source.poll(())
    with pytest.raises(
        TrainerError, match=r"up to offset 9, but the topic ends at 4.*--fresh|not in"
    ):
        source.read(Plan({0: (1, 9)}, {}, 8, 0))
    with pytest.raises(TrainerError, match="not in the log any more"):
        source.read(Plan({0: (100, 109)}, {}, 8, 0))
    source.close()


def test_a_broker_that_was_killed_costs_nothing_but_time(kafka_broker: Any, tmp_path: Path) -> None:
    pipeline = Pipeline(kafka_broker.bootstrap, partitions=2, folder=tmp_path)
    log, items = make_log(120, partitions=2)
    pipeline.write(pipeline.topics.items, [i.to_bytes() for i in items], 0)
    in_transactions(pipeline, [of[:30] for of in log], 10)
    source, backlog = pipeline.source(), Backlog({}, 16, 25)
    before = follow(source, backlog, 60)
    kafka_broker.kill()
    try:
        started = time.monotonic()
        with pytest.raises(SourceUnavailable, match="Kafka"):
            while time.monotonic() < started + 30:
                source.poll(backlog.enough())
    finally:
        kafka_broker.start()
    in_transactions(pipeline, [of[30:] for of in log], 10)
    after = follow(source, backlog, 60, seconds=60)
    assert sorted(events(before + after), key=lambda s: s.event_id) == sorted(
        log[0] + log[1], key=lambda s: s.event_id
    )
    source.close()
    pipeline.close()
