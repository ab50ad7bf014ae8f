"""The real job on a real broker and cluster, with topics of its own."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kafka import KafkaAdminClient, KafkaProducer, TopicPartition

from streaming.dead_letters import OURS
from streaming.events import UserSequence
from streaming.job import supervisor
from streaming.job.accounting import Accounts, StreamEnd, count
from streaming.job.committed_work import committed_work
from streaming.job.flink_rest import FINAL_STATES, FlinkRest, FlinkUnavailable
from streaming.job.record import RecordFile
from streaming.job.savepoints import local_uri
from streaming.job.settings import JobConfig, JobEnvironment
from streaming.kafka_clients import KafkaConnection
from streaming.topics import Topics, create_topics
from tests.local_servers import await_broker
from tests.streaming.oracle import Expected, Record


class LiveStream:
    """The job under its supervisor, in this process; `reports` is what the supervisor says."""

    def __init__(self, broker, cluster, folder: Path, name: str, partitions: int = 1) -> None:
        self.broker, self.cluster, self.folder = broker, cluster, folder
        self.topics = Topics().prefixed(f"{name}-")
        self.config = JobConfig(name=name, restart_delay_ms=500)
        self.client: dict[str, Any] = {}
        self.reports: list[dict] = []
        self.error: Exception | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._read: dict[TopicPartition, int] = {}
        admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
        create_topics(admin, self.topics, partitions=partitions)
        admin.close()

    @property
    def environment(self) -> JobEnvironment:
        return JobEnvironment(
            self.broker.bootstrap,
            self.cluster.address,
            tuple(map(str, self.cluster.jars)),
            local_uri(self.folder / "checkpoints"),
            self.topics,
            tls=self.cluster.tls,
        )

    @property
    def connection(self) -> KafkaConnection:
        return KafkaConnection(self.broker.bootstrap, self.client)

    def start(self, restore: str = "") -> None:
        def keep() -> None:
            try:
                supervisor.run(
                    self.config,
                    self.environment,
                    self._stop,
                    lambda status: self.reports.append(status.to_json()),
                    RecordFile(self.folder),
                    lambda: committed_work(self.config, self.connection, self.topics),
                    restore=restore,
                )
            except Exception as error:
                self.error = error

        self._stop.clear()
        self.error = None
        self._thread = threading.Thread(target=keep)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(60)
            assert not self._thread.is_alive()
        self._thread = None

    def cancel(self) -> None:
        """Cancel a job that its supervisor has left behind, so that its slots are free again."""
        flink = FlinkRest(self.cluster.address, self.cluster.tls)
        for job, state in flink.jobs(self.config.name):
            if state not in FINAL_STATES:
                flink.cancel(job)
        flink.close()

    def send(
        self, records: Sequence[Record], partition: Callable[[Record], int] = lambda _: 0
    ) -> None:
        producer = KafkaProducer(
            bootstrap_servers=self.broker.bootstrap,
            acks="all",
            linger_ms=10,
            max_request_size=8 << 20,
        )
        sent = [
            producer.send(
                self.topics.clicks,
                key=r.key,
                value=r.value,
                timestamp_ms=r.timestamp,
                headers=list(r.headers),
                partition=partition(r),
            )
            for r in records
        ]
        producer.flush()
        for future in sent:
            future.get(timeout=0)
        producer.close()

    def wait(self, done: Callable[[], bool], seconds: float = 300) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            self.cluster.assert_not_ended()
            assert self.error is None, self.error
            assert time.monotonic() < deadline, f"not in time; last: {self.reports[-1:]}"
            time.sleep(0.2)

    def wait_until_drained(self) -> None:
        flink = FlinkRest(self.cluster.address, self.cluster.tls)
        end = StreamEnd(self.connection, self.topics, self.config.name, flink)

        def reached() -> bool:
            try:
                return end.reached(self.config.name)
            except FlinkUnavailable:
                return False

        try:
            self.wait(reached)
        finally:
            end.close()
            flink.close()

    def read(self, topic: str) -> list:
        """What a topic has got since it was read last, committed records only."""
        # On a busy machine a broker may be fenced for a moment, and is then in no metadata.
        await_broker(self.broker.bootstrap, self.client)
        reader = self.connection.consumer()
        try:
            partitions = [TopicPartition(topic, p) for p in reader.partitions_for_topic(topic)]
            reader.assign(partitions)
            for partition in partitions:
                reader.seek(partition, self._read.get(partition, 0))
            ends = reader.end_offsets(partitions)
            found = []
            while any(reader.position(p) < ends[p] for p in partitions):
                for records in reader.poll(timeout_ms=500).values():
                    found += records
            self._read |= {p: reader.position(p) for p in partitions}
            return found
        finally:
            reader.close()

    def forget(self, topic: str) -> None:
        """Read the topic from its beginning the next time."""
        self._read = {p: end for p, end in self._read.items() if p.topic != topic}

    def sequences(self) -> dict[int, list[UserSequence]]:
        """Of each user, by position; every partition has them in that order."""
        found: dict[int, list[UserSequence]] = defaultdict(list)
        last: dict[tuple[int, int], int] = {}
        for record in self.read(self.topics.sequences):
            sequence = UserSequence.from_bytes(record.value)
            assert record.key == sequence.key()
            place = (record.partition, sequence.user_id)
            assert sequence.position > last.get(place, 0)
            last[place] = sequence.position
            found[sequence.user_id].append(sequence)
        # A user's partition changes with their number.
        return {user: sorted(s, key=lambda s: s.position) for user, s in found.items()}

    def accounts(self) -> Accounts:
        return count(self.connection, self.topics)

    def assert_as_expected(self, expected: Expected) -> None:
        """Every topic holds, beyond what was read of it before, what it should, and no more."""
        found = self.sequences()
        late = [(r.key, r.value) for r in self.read(self.topics.clicks_late)]
        dead_letters = self.read(self.topics.clicks_dlq)
        assert {u: len(s) for u, s in found.items()} == {
            u: len(s) for u, s in expected.sequences.items() if s
        }
        for user, sequences in found.items():
            assert sequences == expected.sequences[user]
        assert sorted(late) == sorted((r.key, r.value) for r in expected.late)
        dead: dict[tuple[int, int], str] = {}
        for record in dead_letters:
            headers = dict(record.headers)
            place = int(headers["partition"]), int(headers["offset"])
            origin, _ = expected.dead_letters[place]
            assert (record.key, record.value) == (origin.key, origin.value)
            assert int(headers["timestamp"]) == origin.timestamp
            assert headers["topic"].decode() == self.topics.clicks
            kept = {f"original.{k}" if k in OURS else k: v for k, v in origin.headers}
            assert {k: v for k, v in headers.items() if k not in OURS} == kept
            assert place not in dead
            dead[place] = headers["reason"].decode().split(":")[0]
        assert dead == {place: field for place, (_, field) in expected.dead_letters.items()}
