"""How long an event takes from its producer to a reader of `sequences`, at 1,000 a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
from confluent_kafka import TopicPartition

from replay.librdkafka_producer import LibrdkafkaProducer
from replay.producer import Patience
from streaming.events import HEARTBEAT, Click
from streaming.job.settings import JobConfig
from streaming.kafka_clients import KafkaConnection
from tests.benchmarks.streaming_contenders import BASE, Ours
from tests.benchmarks.streaming_services import Log, Services

RATE = 1000
SECONDS = 40.0
WARM_UP = 10.0
USERS = 5000
SPEEDUP = 100
"""Of a replayed log: its event time runs so much faster, so that the bound on disorder of 5 s of
event time costs 50 ms. Live it costs all of it."""

WAYS: dict[str, tuple[JobConfig, int]] = {
    "exactly once, checkpoints of 1 s": (BASE, SPEEDUP),
    "exactly once, checkpoints of 500 ms": (replace(BASE, checkpoint_interval_ms=500), SPEEDUP),
    "exactly once, checkpoints of 250 ms": (replace(BASE, checkpoint_interval_ms=250), SPEEDUP),
    "at least once, checkpoints of 1 s": (replace(BASE, delivery="at-least-once"), SPEEDUP),
    "live, disorder of 500 ms, exactly once, checkpoints of 500 ms": (
        replace(BASE, checkpoint_interval_ms=500, out_of_orderness_ms=500),
        1,
    ),
}


def freshness(services: Services) -> Iterator[dict[str, Any]]:
    """One report for each way; latencies in milliseconds."""
    for number, (name, (config, speedup)) in enumerate(WAYS.items()):
        log = Log(f"clicks-fresh-{number}", 0, USERS, number)
        services.create(log.topic)
        with Ours(config).run(services, log, f"fresh-{number}") as running:
            took = _play(services, log.topic, running.topics[0], speedup)
        after = took[took[:, 0] >= WARM_UP, 1] * 1000
        sent = int((SECONDS - WARM_UP) * RATE)
        yield {
            "name": name,
            "events": len(after),
            "seen": round(len(after) / sent, 3),
            "p50_ms": round(float(np.percentile(after, 50))),
            "p95_ms": round(float(np.percentile(after, 95))),
            "p99_ms": round(float(np.percentile(after, 99))),
        }


def _play(services: Services, clicks: str, sequences: str, speedup: int) -> np.ndarray:
    """Send for `SECONDS`; (second of sending, seconds until seen) of each event."""
    count = int(SECONDS * RATE)
    sent = np.zeros(count)
    seen = np.zeros(count)
    done = threading.Event()

    def read() -> None:
        consumer = services.consumer(**{"fetch.wait.max.ms": 20})
        consumer.assign([TopicPartition(sequences, p, 0) for p in range(services.partitions)])
        while not (done.is_set() or seen.all()):
            for message in consumer.consume(2000, timeout=0.02):
                if message.error() is None:
                    now = time.monotonic()
                    seen[int(orjson.loads(message.value())["event_id"])] = now
        consumer.close()

    reader = threading.Thread(target=read)
    reader.start()
    producer = LibrdkafkaProducer(
        Patience(KafkaConnection(services.bootstrap), 60, lambda _: None), {"linger.ms": 5}
    )
    rng = np.random.default_rng(0)
    users = rng.integers(0, USERS, count).tolist()
    epoch_ms = int(time.time() * 1000)
    # The first record of a job waits until it runs, which is none of what is measured.
    began = time.monotonic() + 15
    for n, user in enumerate(users):
        due = began + n / RATE
        if (wait := due - time.monotonic()) > 0.002:
            time.sleep(wait)
        sent[n] = time.monotonic()
        when = epoch_ms - 86_400_000 + int((sent[n] - began) * 1000 * speedup)
        click = Click(str(n), user, n % 1000, when)
        producer.send(clicks, click.key(), click.to_bytes(), n, user % services.partitions)
    producer.flush()
    end = Click("", 0, 0, when + 60_000, HEARTBEAT).to_bytes()
    for partition in range(services.partitions):
        producer.send(clicks, b"0", end, count, partition)
    producer.flush()
    reader.join(30)
    done.set()
    reader.join()
    producer.close()
    was = seen > 0
    return np.stack([sent[was] - began, seen[was] - sent[was]], axis=1)
