"""What the streaming benchmarks share: broker, cluster, logs, counting, and clocks."""

from __future__ import annotations

import hashlib
import os
import platform
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from confluent_kafka import Consumer, TopicPartition
from kafka import KafkaAdminClient
from kafka.admin import NewTopic

from deploy.local import flink_cluster as flink
from deploy.local import kafka_broker as kafka
from deploy.local.java import JARS, find_jars
from deploy.studies.machine_facts import machine
from replay.librdkafka_producer import LibrdkafkaProducer
from replay.producer import Patience
from streaming.events import HEARTBEAT, Click
from streaming.job.flink_tls import FlinkTls
from streaming.kafka_clients import KafkaConnection
from tests.local_servers import await_broker, await_cluster

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "tests" / "benchmarks" / "streaming_peers" / "requirements.txt"
ENVIRONMENT = ROOT / ".deploy" / "bench-venv"
DELAY_MS = 5000
ITEMS = 100_000
BARRIER = 100_000
# records carry the times of the log, and Kafka would delete old ones at once
KEPT = {"retention.ms": "-1", "retention.bytes": "-1"}


@dataclass(frozen=True)
class Services:
    """A broker and a cluster; `broker` is the process id of the former."""

    bootstrap: str
    flink: str
    tls: FlinkTls
    jars: tuple[str, ...]
    folder: Path
    partitions: int
    broker: int

    def create(self, *topics: str) -> None:
        """Empty topics."""
        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        admin.create_topics([NewTopic(t, self.partitions, 1, topic_configs=KEPT) for t in topics])
        admin.close()

    def delete(self, *topics: str) -> None:
        """Give their disk back."""
        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        admin.delete_topics(list(topics))
        admin.close()

    def ends(self, topics: list[str], *, committed: bool) -> Callable[[], int]:
        """Sum of the ends of all partitions, with the markers of transactions."""
        consumer = self.consumer(committed=committed)
        places = [TopicPartition(t, p) for t in topics for p in range(self.partitions)]
        consumer.assign(places)
        return lambda: sum(
            consumer.get_watermark_offsets(p, timeout=10, cached=False)[1] for p in places
        )

    def consumer(self, *, committed: bool = True, **settings: Any) -> Consumer:
        """Without a group; at a partition's end `consume` yields a message with an error."""
        return Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": "benchmark",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
                "isolation.level": "read_committed" if committed else "read_uncommitted",
                "queued.max.messages.kbytes": 65536,
                **settings,
            }
        )

    def records(self, topics: list[str]) -> int:
        """Committed records, counted one by one: ends count the markers of transactions too."""
        consumer = self.consumer()
        places = [TopicPartition(t, p, 0) for t in topics for p in range(self.partitions)]
        consumer.assign(places)
        found, ended = 0, 0
        while ended < len(places):
            for message in consumer.consume(10_000, timeout=5):
                found, ended = (found + 1, ended) if message.error() is None else (found, ended + 1)
        consumer.close()
        return found


@contextmanager
def services(partitions: int, heap_mb: int, managed_mb: int) -> Iterator[Services]:
    """A broker and a cluster with two slots, in a folder that goes away."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        ports = iter(free_ports(7))
        broker = kafka.KafkaBrokerConfig(
            data_dir=folder / "kafka", port=next(ports), controller_port=next(ports), heap_mb=1024
        )
        cluster = flink.FlinkClusterConfig(
            folder / "flink",
            rest_port=next(ports),
            rpc_port=next(ports),
            blob_port=next(ports),
            task_manager_port=next(ports),
            data_port=next(ports),
            task_manager_heap_mb=heap_mb,
            managed_mb=managed_mb,
        )
        kafka.prepare(broker)
        flink.prepare(cluster)
        processes = []
        for number, (command, directory) in enumerate(
            (
                (kafka.command(broker), broker.data_dir),
                (flink.job_manager_command(), cluster.data_dir),
                (flink.task_manager_command(cluster), cluster.data_dir),
            )
        ):
            output = stack.enter_context((folder / f"service-{number}.log").open("wb"))
            process = subprocess.Popen(
                command, cwd=directory, stdout=output, stderr=subprocess.STDOUT
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            processes.append(process)
        await_broker(broker.bootstrap)
        await_cluster(cluster.address, cluster.tls)
        yield Services(
            broker.bootstrap,
            cluster.address,
            cluster.tls,
            tuple(map(str, find_jars(JARS / "flink", "flink-sql-connector-kafka-*.jar"))),
            folder,
            partitions,
            processes[0].pid,
        )


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nothing listens on, and that no outgoing connection is given."""
    with ExitStack() as stack:
        found: list[int] = []
        for port in random.SystemRandom().sample(range(10_240, 29_000), 1_000):
            with suppress(OSError):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
                found.append(port)
            if len(found) == count:
                return found
    raise RuntimeError("no free ports left")


@dataclass(frozen=True)
class Log:
    """A log in the order of event time, 100 ms apart, of a Zipf catalogue; partition by user.

    Attributes:
        topic: where it is.
        events: records without the heartbeat at the end of each partition.
        users: clicks of users are spread evenly.
        seed: the same seed gives the same log.
        other: "", or what every tenth record is: "duplicates", "late" or "dead letters".
    """

    topic: str
    events: int
    users: int
    seed: int
    other: str = ""

    def write(self, services: Services) -> None:
        """Fill the topic."""
        services.create(self.topic)
        rng = np.random.default_rng(self.seed)
        shares = 1 / np.arange(1, ITEMS + 1)
        who = rng.integers(0, self.users, self.events).tolist()
        what = rng.choice(ITEMS, self.events, p=shares / shares.sum()).tolist()
        when = (10**12 + np.cumsum(rng.integers(0, 200, self.events))).tolist()
        producer = LibrdkafkaProducer(
            Patience(KafkaConnection(services.bootstrap), 60, lambda _: None), {}
        )
        for n, (user, item, ms) in enumerate(zip(who, what, when, strict=True)):
            click = Click(f"{n:x}", user, item, ms)
            if self.other and n % 10 == 9:
                if self.other == "duplicates":
                    user = who[n - 1]
                    click = Click(f"{n - 1:x}", user, what[n - 1], when[n - 1])
                elif self.other == "late":
                    click = Click(f"{n:x}", user, item, ms - 600_000)
            value = click.to_bytes()
            if self.other == "dead letters" and n % 10 == 9:
                value = value.replace(b'"item_id":', b'"item":')
            producer.send(self.topic, click.key(), value, n, user % services.partitions)
            if n % BARRIER == BARRIER - 1:
                producer.flush()
        end = Click("", 0, 0, when[-1] + DELAY_MS, HEARTBEAT).to_bytes()
        for partition in range(services.partitions):
            producer.send(self.topic, b"0", end, self.events, partition)
        producer.flush()
        producer.close()

    @property
    def outcomes(self) -> int:
        """Records that the job writes, over its three topics."""
        return self.events - (self.events // 10 if self.other == "duplicates" else 0)


def cpu_clock(broker: int) -> Callable[[], tuple[float, float]]:
    """Seconds of processor time since now: of the broker, and of all other children."""

    def total() -> tuple[float, float]:
        at_broker = elsewhere = 0.0
        for process in psutil.Process().children(recursive=True):
            try:
                seconds = sum(process.cpu_times()[:2])
            except psutil.NoSuchProcess:
                continue
            if process.pid == broker:
                at_broker += seconds
            else:
                elsewhere += seconds
        return at_broker, elsewhere

    before = total()

    def since() -> tuple[float, float]:
        now = total()
        return now[0] - before[0], now[1] - before[1]

    return since


def peers_python() -> Path:
    """The interpreter of the peers' own environment, which is made when it is not there.

    Raises:
        subprocess.CalledProcessError: if the packages cannot be had.
    """
    stamp = ENVIRONMENT / "requirements.sha256"
    digest = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    python = ENVIRONMENT / "bin" / "python"
    if not stamp.is_file() or stamp.read_text() != digest:
        uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or "uv"
        subprocess.run([uv, "venv", "-q", "--clear", "--python", sys.executable, ENVIRONMENT])
        subprocess.run(
            [uv, "pip", "install", "-q", "--python", python, "-r", REQUIREMENTS], check=True
        )
        stamp.write_text(digest)
    return python


def facts() -> dict[str, Any]:
    """Machine and versions; no names, no paths."""
    pinned = REQUIREMENTS.read_text().splitlines()[1:]
    packages = ("apache-flink", "kafka-python", "confluent-kafka", "crc32c", "orjson")
    return {
        "machine": machine("cpu"),
        "versions": {"python": platform.python_version(), "kernel": os.uname().release}
        | {package: version(package) for package in packages},
        "versions_of_peers": dict(line.split("==") for line in pinned),
        "began": time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime()),
    }
