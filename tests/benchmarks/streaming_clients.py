"""The Python clients: replay and trainer consumption, in events per second of processor time."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from confluent_kafka import TopicPartition

from model.training.micro_batch import ITEMS, SEQUENCES
from model.training.sequence_source import SequenceSource
from replay.config import CLIENTS, ReplayConfig
from replay.librdkafka_producer import LibrdkafkaProducer
from replay.producer import KafkaPythonProducer, Patience, Producer
from replay.replay import run
from replay.resumption import CHUNK
from streaming.events import Click, parse_sequence
from streaming.kafka_clients import KafkaConnection
from streaming.statuses import PartStatus
from streaming.topic_identity import TopicIdentity
from streaming.topics import Topics
from tests.benchmarks.streaming_contenders import BASE, Ours
from tests.benchmarks.streaming_services import Log, Services

PRODUCERS: dict[str, Callable[[Patience], Producer]] = {
    "kafka-python": KafkaPythonProducer,
    "confluent-kafka": lambda patience: LibrdkafkaProducer(patience, {}),
}


def clients(services: Services, events: int, users: int, seed: int) -> Iterator[dict[str, Any]]:
    """One report for each client and task."""
    for name in CLIENTS:
        yield {"name": f"produce, {name}"} | produce(services, name, events, users)
        yield {"name": f"replay, {name}"} | replay(services, name, events, users)
    log = Log("clicks-for-trainer", events, users, seed)
    log.write(services)
    with Ours(BASE).run(services, log, "for-trainer") as running:
        committed = services.ends(running.topics[:1], committed=True)
        while committed() < events:
            time.sleep(0.2)
    yield {"name": "consume, trainer's source, kafka-python"} | consume(services, events)
    yield {"name": "consume and parse, confluent-kafka"} | consume_fast(
        services, running.topics[0], events
    )


def _report(events: int, cpu: float, seconds: float) -> dict[str, Any]:
    return {
        "events": events,
        "events_per_cpu_second": round(events / cpu),
        "events_per_second": round(events / seconds),
    }


def produce(services: Services, client: str, events: int, users: int) -> dict[str, Any]:
    """Ready clicks through the producer, with the replay's barriers."""
    topic = f"produced-{client}"
    services.create(topic)
    clicks = [Click(f"{n:x}", n * 7919 % users, n % 99_991, 10**12 + n) for n in range(events)]
    producer = PRODUCERS[client](Patience(KafkaConnection(services.bootstrap), 60, lambda _: None))
    began, cpu = time.monotonic(), time.process_time()
    for n, click in enumerate(clicks):
        producer.send(topic, click.key(), click.to_bytes(), n, click.user_id % services.partitions)
        if n % CHUNK == CHUNK - 1:
            producer.flush()
    producer.flush()
    report = _report(events, time.process_time() - cpu, time.monotonic() - began)
    producer.close()
    return report


def replay(services: Services, client: str, events: int, users: int) -> dict[str, Any]:
    """A whole replay of a log in a file, once it is staged: what `sparc replay` does."""
    topics = Topics().prefixed(f"replayed-{client}-")
    marks: dict[str, tuple[float, float]] = {}

    def report(status: PartStatus) -> None:
        marks.setdefault(status.state, (time.monotonic(), time.process_time()))

    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        log = Path(folder) / "events.csv"
        with log.open("w") as file:
            file.write("user_id,item_id,time\n")
            for n in range(events):
                file.write(f"{n * 7919 % users},{n % 99_991},{10**9 + n}\n")
        config = replace(ReplayConfig(events=log), client=client, heartbeat_seconds=1.0)
        run(
            config,
            KafkaConnection(services.bootstrap),
            topics,
            Path(folder) / "data",
            threading.Event(),
            report,
            partitions=services.partitions,
        )
    (began, cpu), (ended, cpu_after) = marks["replaying"], marks["done"]
    return _report(events, cpu_after - cpu, ended - began)


def consume(services: Services, events: int) -> dict[str, Any]:
    """The trainer's source, to the end of the topic."""
    topics = Topics(sequences="for-trainer-sequences", items="for-trainer-items")
    kafka = KafkaConnection(services.bootstrap)
    identity = TopicIdentity(
        Path(tempfile.mkdtemp()),
        "trainer",
        kafka,
        {SEQUENCES: topics.sequences, ITEMS: topics.items},
    )
    source = SequenceSource(kafka, topics, identity)
    services.create("for-trainer-items")
    found = 0
    began, cpu = time.monotonic(), time.process_time()
    while True:
        polled = source.poll(())
        found += sum(map(len, polled.sequences.values()))
        ends, reached = polled.ends[SEQUENCES], polled.next_offsets[SEQUENCES]
        if all(reached[p] >= end for p, end in ends.items()):
            break
    report = _report(found, time.process_time() - cpu, time.monotonic() - began)
    source.close()
    assert found == events, (found, events)
    return report


def consume_fast(services: Services, topic: str, events: int) -> dict[str, Any]:
    """What the same would cost with librdkafka: committed records, parsed as the trainer does."""
    consumer = services.consumer()
    consumer.assign([TopicPartition(topic, p, 0) for p in range(services.partitions)])
    found = ended = 0
    began, cpu = time.monotonic(), time.process_time()
    while ended < services.partitions:
        for message in consumer.consume(2000, timeout=5):
            if message.error() is None:
                parse_sequence(message.value())
                found += 1
            else:
                ended += 1
    report = _report(found, time.process_time() - cpu, time.monotonic() - began)
    consumer.close()
    assert found == events, (found, events)
    return report
