"""What a job leaves in its TaskManager, which runs one job after the other for months: nothing."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from kafka import KafkaAdminClient

from deploy.local.java import find_java
from tests.conftest import JavaProcess
from tests.streaming.job.live_stream import LiveStream
from tests.streaming.made_clicks import DELAY, click, heartbeat

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(300)]


class Jvm:
    """What a JVM holds, by the JDK's `jcmd`."""

    def __init__(self, java: JavaProcess) -> None:
        self.jcmd = find_java().with_name("jcmd")
        if not self.jcmd.exists():
            pytest.skip(f"no JDK, {self.jcmd} is not there")
        self.pid = java.process.pid

    def ask(self, command: str) -> str:
        line = [str(self.jcmd), str(self.pid), command]
        return subprocess.run(line, capture_output=True, text=True, check=True).stdout

    def job_class_loaders(self) -> int:
        """Those that are in use."""
        self.ask("GC.run")
        return self.ask("VM.classloader_stats").count("ChildFirstClassLoader")

    def kafka_threads(self) -> list[str]:
        """The names of the Kafka clients' threads."""
        lines = self.ask("Thread.print").splitlines()
        return [x.split('"')[1] for x in lines if x.startswith(('"kafka-', '"Kafka '))]


@pytest.fixture
def stream(kafka_broker, flink_cluster, tmp_path, request) -> Iterator[LiveStream]:
    stream = LiveStream(kafka_broker, flink_cluster, tmp_path, "leftovers")
    yield stream
    stream.stop()
    stream.cancel()


def test_a_job_and_its_restarts_leave_no_class_loader_and_no_thread(stream):
    jvm = Jvm(stream.cluster.task_manager)
    loaders, threads = jvm.job_class_loaders(), len(jvm.kafka_threads())

    def nothing_left() -> bool:
        return jvm.job_class_loaders() <= loaders and len(jvm.kafka_threads()) <= threads

    def assert_nothing_left() -> None:
        deadline = time.monotonic() + 20
        while not nothing_left():
            found = f"{jvm.job_class_loaders()} class loaders after {loaders}"
            assert time.monotonic() < deadline, f"{found}; {jvm.kafka_threads()}"
            time.sleep(0.5)

    def reported(name: str) -> int:
        return (stream.reports[-1].get(name) if stream.reports else 0) or 0

    # The writers start and fail, again and again, once their topic is gone.
    stream.config = replace(
        stream.config,
        restart_attempts=100,
        restart_delay_ms=100,
        properties={"max.block.ms": "500"},
    )
    stream.start()
    stream.wait(lambda: reported("checkpoints") > 1)
    running = len(jvm.kafka_threads())
    admin = KafkaAdminClient(bootstrap_servers=stream.broker.bootstrap)
    admin.delete_topics([stream.topics.sequences])
    admin.close()
    stream.send([click(1, 1, 10**12), heartbeat(10**12 + DELAY)])
    stream.wait(lambda: reported("restarts") >= 4)
    assert len(jvm.kafka_threads()) <= running, jvm.kafka_threads()
    stream.stop()
    stream.cancel()
    assert_nothing_left()
