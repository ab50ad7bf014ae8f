"""The real job on a real broker and cluster, compared with the oracle record by record."""

from __future__ import annotations

import csv
import hashlib
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaProducer

from streaming import job_keeper
from streaming.accounting import Accounts, StreamEnd, consumer, count, read_all
from streaming.events import HEARTBEAT, Click, UserSequence
from streaming.flink_rest import FlinkRest, FlinkUnavailable
from streaming.job import Config, Surroundings
from streaming.topics import Topics, create_topics
from tests.streaming.oracle import Expected, Record, expect

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(600)]

BEAUTY = Path(__file__).resolve().parents[3] / "shared" / "data" / "beauty" / "events.csv"
DELAY = 5000
RECORDED = 1_500_000_000_000
"""When the records were written, in ms: after the events of all logs here."""


class Stream:
    """The job of one test with topics of its own."""

    def __init__(self, broker, cluster, folder: Path, name: str, partitions: int = 1) -> None:
        self.broker, self.cluster, self.folder = broker, cluster, folder
        self.topics = Topics().prefixed(f"{name}-")
        self.config = Config(name=name, restart_delay_ms=500)
        self.reports: list[dict] = []
        self.error: Exception | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
        create_topics(admin, self.topics, partitions=partitions)
        admin.close()

    def start(self) -> None:
        around = Surroundings(
            self.broker.bootstrap,
            self.cluster.address,
            tuple(map(str, self.cluster.jars)),
            (self.folder / "checkpoints").as_uri(),
            self.topics,
        )

        def keep() -> None:
            try:
                job_keeper.run(self.config, around, self._stop, self.reports.append)
            except Exception as error:
                self.error = error

        self._stop.clear()
        self._thread = threading.Thread(target=keep)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(60)
            assert not self._thread.is_alive()
        self._thread = None

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

    def wait(self, done: Callable[[], bool], seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            assert self.error is None, self.error
            assert time.monotonic() < deadline, f"not in time; last: {self.reports[-1:]}"
            time.sleep(0.2)

    def wait_until_drained(self) -> None:
        flink = FlinkRest(self.cluster.address)
        end = StreamEnd(self.broker.bootstrap, self.topics, self.config.name, flink)

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
        reader = consumer(self.broker.bootstrap, {})
        try:
            return list(read_all(reader, topic))
        finally:
            reader.close()

    def sequences(self) -> dict[int, list[UserSequence]]:
        found: dict[int, list[UserSequence]] = defaultdict(list)
        for record in self.read(self.topics.sequences):
            sequence = UserSequence.from_bytes(record.value)
            assert record.key == sequence.key()
            found[sequence.user_id].append(sequence)
        return found

    def accounts(self) -> Accounts:
        return count(self.broker.bootstrap, self.topics)


@pytest.fixture
def stream(kafka_broker, flink_cluster, tmp_path, request) -> Iterator[Stream]:
    name = request.node.name.removeprefix("test_")[:40]
    stream = Stream(kafka_broker, flink_cluster, tmp_path, name)
    yield stream
    stream.stop()


def click(user: int, item: int, when: int, **changes) -> Record:
    event = hashlib.sha1(f"{user}|{item}|{when}".encode(), usedforsecurity=False).hexdigest()[:32]
    fields = {"event_id": event, "user_id": user, "item_id": item, "event_time": when} | changes
    body = Click(**fields)
    return Record(body.key(), body.to_bytes(), RECORDED, (("origin", b"\x00\xff"),))


def heartbeat(when: int) -> Record:
    return Record(b"0", Click("", 0, 0, when, HEARTBEAT).to_bytes(), RECORDED)


def poison(rng: random.Random, when: int) -> Record:
    """A record that is no click, in one of the ways that producers have found."""
    ahead = RECORDED + 10 * 365 * 86_400_000
    good = click(7, 8, when)
    value = good.value
    ways = [
        Record(b"7", value.replace(b"event_id", b"event_\xff"), when),
        Record(b"7", value[:-5], when),
        Record(b"7", b"\x00\x01\x02", when),
        Record(b"7", b"", when),
        Record(b"7", None, when),
        Record(None, value, when),
        Record(b"8", value, when),
        Record(b"7", value + b"x", when),
        Record(b"7", b"[1, 2]", when),
        Record(b"7", b"null", when),
        Record(b"7", value.replace(b'"user_id":7', b'"user_id":"7"'), when),
        Record(b"7", value.replace(b'"user_id":7', b'"user_id":7.0'), when),
        Record(b"7", value.replace(b'"user_id":7', b'"user_id":true'), when),
        Record(b"7", value.replace(b'"item_id":8', b'"item_id":NaN'), when),
        Record(b"7", value.replace(b'"item_id":8', b'"item_id":null'), when),
        Record(b"7", value.replace(b'"item_id":8', b'"item_id":9223372036854775808'), when),
        Record(b"7", value.replace(b'"item_id":8', b'"item_id":{"a":[8]}'), when),
        Record(b"7", value.replace(b'"item_id":8,', b""), when),
        Record(b"7", value.replace(b'"event_type":"click"', b'"event_type":3'), when),
        Record(b"7", value.replace(b'"schema_version":1', b'"schema_version":"1"'), when),
        Record(b"7", value.replace(b'"event_id":"', b'"event_id":"\\ud800'), when),
        click(7, 8, -1),
        Record(b"7", click(7, 8, ahead).value, when),
        Record(b"0", heartbeat(ahead).value, when),
        Record(b"7", b'{"pad":"' + b"x" * 2_000_000, when),
    ]
    return rng.choice(ways)


def disordered_log(rng: random.Random, events: int) -> list[Record]:
    """Disorder, ties, late ones, duplicates, poison, strange but valid records."""
    log: list[Record] = []
    now = 1_000_000
    for _ in range(events):
        now += rng.choice([0, 0, 10, 400, 2500])
        kind = rng.random()
        user = rng.randint(-3, 12)
        when = now - rng.choice([0, 0, 300, 4000, 4999])
        if kind < 0.03:
            log.append(poison(rng, now))
        elif kind < 0.08 and log:
            log.append(rng.choice(log[-200:]))  # again, poison too
        elif kind < 0.12:
            log.append(click(user, rng.randint(1, 99), max(0, now - rng.randint(5000, 60_000))))
        elif kind < 0.14:
            log.append(heartbeat(now))
        elif kind < 0.16:  # fields added and in another order, an unusual type of event, Unicode
            record = click(user, 5, when, event_type="vu", event_id=f'é\U0001f600"\\{now}')
            value = b'{ "z":{"user_id":[1,"a"]}, ' + (record.value or b"")[1:]
            log.append(Record(record.key, value, record.timestamp))
        else:
            log.append(click(user, rng.randint(1, 99), when))
    return [*log, heartbeat(now + DELAY)]


def assert_as_expected(stream: Stream, log: Sequence[Record], expected: Expected) -> None:
    found = stream.sequences()
    assert {u: len(s) for u, s in found.items()} == {
        u: len(s) for u, s in expected.sequences.items() if s
    }
    for user, sequences in found.items():
        assert sequences == expected.sequences[user]
    late = [(r.key, r.value) for r in stream.read(stream.topics.clicks_late)]
    assert sorted(late) == sorted((r.key, r.value) for r in expected.late)
    dead = {}
    for record in stream.read(stream.topics.clicks_dlq):
        headers = dict(record.headers)
        offset = int(headers["offset"])
        origin = log[offset]
        assert (record.key, record.value) == (origin.key, origin.value)
        assert dict(origin.headers).items() <= headers.items()
        assert int(headers["timestamp"]) == origin.timestamp
        assert headers["topic"].decode() == stream.topics.clicks
        assert offset not in dead
        dead[offset] = headers["reason"].decode().split(":")[0]
    assert dead == dict(expected.dead_letters)
    accounts = stream.accounts()
    assert accounts.lost == 0
    assert accounts.duplicates == expected.duplicates


def test_disorder_duplicates_poison_and_late_clicks_come_out_as_the_oracle_says(stream):
    log = disordered_log(random.Random(3), 3000)
    expected = expect(log)
    assert len(expected.late) > 50
    assert len(expected.dead_letters) > 50
    assert expected.duplicates > 50
    assert max(map(len, expected.sequences.values())) > 60
    stream.start()
    stream.send(log)
    stream.wait_until_drained()
    assert_as_expected(stream, log, expected)


def test_parallel_operators_keep_the_order_of_each_user(stream):
    stream.config = replace(stream.config, parallelism=2)
    admin = KafkaAdminClient(bootstrap_servers=stream.broker.bootstrap)
    admin.create_partitions({stream.topics.clicks: 4, stream.topics.sequences: 3})
    admin.close()
    rng = random.Random(7)
    now, log = 10**9, []
    for _ in range(20_000):
        now += rng.choice([0, 1, 20])
        log.append(click(rng.randint(1, 50), rng.randint(1, 999), now - rng.randint(0, 4999)))
    ends = [heartbeat(now + DELAY)] * 4
    stream.start()
    # A user's clicks come from one of three partitions; the fourth has nothing but a heartbeat.
    stream.send(log, lambda r: int(r.key or b"0") % 3)
    numbers = iter(range(4))
    stream.send(ends, lambda _: next(numbers))
    stream.wait_until_drained()
    assert stream.sequences() == expect([*log, *ends]).sequences
    assert stream.accounts().lost == 0


def test_killed_anywhere_the_topics_are_the_same(stream):
    rng = random.Random(5)
    now, log = 10**9, []
    for _ in range(40_000):
        now += rng.choice([0, 1, 20])
        log.append(click(rng.randint(1, 300), rng.randint(1, 999), now - rng.randint(0, 4999)))
        if rng.random() < 0.01:
            log.append(rng.choice(log[-500:]))
        if rng.random() < 0.001:
            log.append(poison(rng, now))
    log.append(heartbeat(now + DELAY))
    expected = expect(log)
    assert not expected.late
    quarter = len(log) // 4
    stream.config = replace(stream.config, user_ttl="1 d")
    cluster = stream.cluster
    stream.start()
    stream.send(log[:quarter])
    stream.wait(lambda: bool(stream.reports) and stream.reports[-1].get("checkpoints", 0) > 1)

    stream.send(log[quarter : 2 * quarter])
    cluster.task_manager.kill()
    cluster.task_manager.start()
    stream.wait(lambda: stream.reports[-1].get("restarts", 0) > 0)

    stream.send(log[2 * quarter : 3 * quarter])
    cluster.job_manager.kill()
    cluster.job_manager.start()
    stream.wait(lambda: stream.reports[-1].get("submissions") == 2)

    stream.send(log[3 * quarter : -1])
    stream.broker.kill()
    stream.broker.start()
    stream.wait(lambda: stream.reports[-1].get("checkpoints", 0) > 0)

    stream.stop()  # with a savepoint, and on from it
    stream.start()
    stream.send(log[-1:])
    stream.wait_until_drained()
    assert_as_expected(stream, log, expected)


@pytest.mark.skipif(not BEAUTY.is_file(), reason=f"{BEAUTY} is not there")
def test_every_event_of_a_real_log_becomes_a_sequence(stream):
    with BEAUTY.open() as file:
        rows = [
            (int(r["user_id"]), int(r["item_id"]), int(r["time"])) for r in csv.DictReader(file)
        ]
    rows.sort(
        key=lambda r: (
            r[2],
            hashlib.sha1(f"{r[0]}|{r[1]}|{r[2]}".encode(), usedforsecurity=False).hexdigest(),
        )
    )
    log = [click(user, item, 1000 * when) for user, item, when in rows]
    stream.start()
    began = time.monotonic()
    stream.send([*log, heartbeat(1000 * rows[-1][2] + DELAY)])
    sent = time.monotonic()
    stream.wait_until_drained()
    print(f"sent in {sent - began:.1f} s, drained {time.monotonic() - sent:.1f} s later")
    accounts = stream.accounts()
    assert accounts == Accounts(len(rows), len(rows), 0, 0, 0)
    expected: dict[int, list[int]] = defaultdict(list)
    for user, item, _ in rows:
        expected[user].append(item)
    for user, sequences in stream.sequences().items():
        items = expected[user]
        assert [s.target for s in sequences] == items
        assert [s.position for s in sequences] == list(range(1, len(items) + 1))
        assert all(s.history_items == items[: s.position - 1][-50:] for s in sequences)
