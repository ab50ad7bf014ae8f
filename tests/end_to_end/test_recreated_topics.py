"""A topic that was deleted and made again is another topic, however many records it has by now.

Each part reads a topic, is stopped (or not), and finds the topic recreated and grown past the
offset where it was: it has to refuse, and must not take one record of the new one.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient

from deploy.commands import job_supervision, parts
from deploy.settings import Flink, Kafka, Settings
from replay.config import ReplayConfig
from replay.synthetic import SyntheticConfig
from streaming.errors import StreamingError
from streaming.job.accounting import count
from streaming.job.flink_rest import FINAL_STATES, FlinkRest
from streaming.topics import create_topics
from tests.model.training.recorded_log import make_log
from tests.streaming.made_clicks import click, disordered_log, heartbeat

pytestmark = pytest.mark.end_to_end

SEQUENCES, ITEMS = make_log(120, partitions=1)
FEW, MANY = SEQUENCES[0][:20], SEQUENCES[0]


class Running:
    """A part in a thread; `reports` is what it says."""

    def __init__(self, body: Callable[..., Any], *arguments: Any) -> None:
        self.reports: list[dict[str, Any]] = []
        self.error: BaseException | None = None
        self.stop_event = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(body, arguments))
        self._thread.start()

    def _run(self, body: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        try:
            body(*arguments, self.stop_event, lambda status: self.reports.append(status.to_json()))
        except (RuntimeError, ValueError) as error:
            self.error = error

    def wait(self, done: Callable[[dict[str, Any]], bool], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not any(map(done, self.reports)):
            assert self.error is None, self.error
            assert time.monotonic() < deadline, self.reports[-1:]
            time.sleep(0.05)

    def ended(self, seconds: float = 40) -> str:
        """What it ended with."""
        self._thread.join(seconds)
        if self._thread.is_alive():
            self.stop()
            pytest.fail(f"it goes on: {self.reports[-1:]}")
        return str(self.error)

    def stop(self) -> None:
        self.stop_event.set()
        self._thread.join(60)
        assert not self._thread.is_alive()
        assert self.error is None, self.error


class Shop:
    """A pipeline on a Kafka of its own, with topics that are written by hand."""

    def __init__(self, bootstrap: str, folder: Path, **sections: Any) -> None:
        name = f"recreated-{time.time_ns()}-"
        self.settings = Settings(
            data_dir=folder,
            kafka=Kafka(bootstrap=bootstrap, prefix=name),
            **sections,
        )
        self.topics = self.settings.kafka.topics()
        self.admin = KafkaAdminClient(bootstrap_servers=bootstrap)
        create_topics(self.admin, self.topics)

    def write(self, topic: str, records: list[Any]) -> None:
        producer = KafkaProducer(bootstrap_servers=self.settings.bootstrap)
        for record in records:
            value = record if isinstance(record, bytes) else record.to_bytes()
            producer.send(topic, key=record.key(), value=value)
        producer.close()

    def recreate(self, topic: str) -> None:
        """Delete a topic and make it again, with nothing in it."""
        self.admin.delete_topics([topic])
        while topic in self.admin.list_topics():
            time.sleep(0.05)
        create_topics(self.admin, self.topics)


@pytest.fixture
def shop(kafka_broker: Any, tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(kafka_broker.bootstrap, tmp_path)
    yield shop
    shop.admin.close()


def trained(events: int) -> Callable[[dict[str, Any]], bool]:
    return lambda status: status.get("caught_up", False) and status["sequences_read"] >= events


@pytest.mark.parametrize("alive", [False, True], ids=["stopped", "alive"])
@pytest.mark.parametrize("which", ["sequences", "items"])
def test_the_trainer_refuses(shop: Shop, which: str, alive: bool) -> None:
    shop.write(shop.topics.items, ITEMS[:10])
    shop.write(shop.topics.sequences, FEW)
    first = Running(parts.train_model, shop.settings)
    first.wait(trained(len(FEW)))
    if not alive:
        first.stop()
    topic = getattr(shop.topics, which)
    shop.recreate(topic)
    shop.write(topic, MANY if which == "sequences" else ITEMS)
    second = first if alive else Running(parts.train_model, shop.settings)
    said = second.ended()
    assert f"{topic!r}" in said
    assert "deleted and created again" in said
    assert "--fresh" in said
    assert max(status.get("trained_events", 0) for status in second.reports + [{}]) <= len(FEW)
    assert max(status.get("items_listed", 0) for status in second.reports + [{}]) <= 10


@pytest.mark.parametrize("alive", [False, True], ids=["stopped", "alive"])
def test_the_indexer_refuses(shop: Shop, alive: bool) -> None:
    shop.write(shop.topics.items, ITEMS[:10])
    first = Running(parts.index_items, shop.settings)
    first.wait(lambda status: status["catalogue_items"] == 10)
    if not alive:
        first.stop()
    shop.recreate(shop.topics.items)
    shop.write(shop.topics.items, ITEMS)
    second = first if alive else Running(parts.index_items, shop.settings)
    said = second.ended()
    assert f"{shop.topics.items!r}" in said
    assert "deleted and created again" in said
    assert {status["catalogue_items"] for status in second.reports} <= {10}


@pytest.mark.parametrize("alive", [False, True], ids=["stopped", "alive"])
def test_the_service_goes_on_with_the_histories_that_it_has(shop: Shop, alive: bool) -> None:
    shop.write(shop.topics.sequences, FEW)
    users = len({sequence.user_id for sequence in FEW})
    first = Running(parts.serve_queries, shop.settings)
    first.wait(lambda status: status["users"] == users)
    if not alive:
        first.stop()
    shop.recreate(shop.topics.sequences)
    shop.write(shop.topics.sequences, MANY)
    second = first if alive else Running(parts.serve_queries, shop.settings)
    second.wait(lambda status: "deleted and created again" in status.get("kafka_problem", ""))
    time.sleep(1.5)
    assert {status["users"] for status in second.reports} <= {0, users}
    assert second.reports[-1]["users"] == users
    second.stop()


def test_the_replay_refuses_before_it_sends(kafka_broker: Any, tmp_path: Path) -> None:
    made = ReplayConfig(synthetic=SyntheticConfig(users=50, items=48, events=400, days=20))
    shop = Shop(kafka_broker.bootstrap, tmp_path, replay=made)
    Running(parts.replay_log, shop.settings).ended()
    shop.recreate(shop.topics.clicks)
    again = Running(parts.replay_log, shop.settings)
    assert "deleted and created again" in again.ended()
    assert again.reports[-1]["clicks_produced"] == 0
    assert count(kafka_broker.connection, shop.topics).clicks == 0
    shop.admin.close()


@pytest.mark.parametrize(
    "alive", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["stopped", "alive"]
)
def test_the_job_is_not_let_on(
    kafka_broker: Any, flink_cluster: Any, tmp_path: Path, alive: bool, jars: Path
) -> None:
    flink_section = Flink(flink_cluster.address, flink_cluster.tls)
    shop = Shop(kafka_broker.bootstrap, tmp_path, flink=flink_section, jars_dir=jars)
    settings = shop.settings.model_copy(
        update={"streaming": type(shop.settings.streaming)(name=shop.settings.kafka.prefix)}
    )
    keep = lambda stop, report: job_supervision.keep(settings, stop, report, threading.Event())  # noqa: E731
    log = disordered_log(random.Random(3), 300)

    def send(records: list[Any]) -> None:
        producer = KafkaProducer(bootstrap_servers=kafka_broker.bootstrap)
        for record in records:
            producer.send(shop.topics.clicks, key=record.key, value=record.value)
        producer.close()

    send([*log, heartbeat(10**13)])
    first = Running(keep)
    first.wait(lambda status: status.get("lag") == 0 and status.get("checkpoints", 0) > 2, 120)
    if not alive:
        first.stop()
    before = count(kafka_broker.connection, shop.topics).sequences
    assert before > 100
    shop.recreate(shop.topics.clicks)
    send([click(7, n, 10**13 + n) for n in range(1000)])
    send([heartbeat(2 * 10**13)])
    second = first if alive else Running(keep)
    said = second.ended(60)
    assert f"{shop.topics.clicks!r}" in said
    assert "deleted and created again" in said
    assert "--restore none" in said
    flink = FlinkRest(flink_cluster.address, flink_cluster.tls)
    deadline = time.monotonic() + 30
    while any(state not in FINAL_STATES for _, state in flink.jobs(settings.streaming.name)):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    flink.close()
    if not alive:  # else Flink has read on until the keeper saw it, for less than a second
        assert count(kafka_broker.connection, shop.topics).sequences == before
    shop.admin.close()


def test_another_cluster_at_the_address_is_noticed(shop: Shop) -> None:
    shop.write(shop.topics.items, ITEMS[:10])
    first = Running(parts.index_items, shop.settings)
    first.wait(lambda status: status["catalogue_items"] == 10)
    first.stop()
    known = shop.settings.data_dir / "kafka.json"
    ours = orjson.loads(known.read_bytes())["cluster_id"]
    assert ours == shop.admin.describe_cluster()["cluster_id"]
    known.write_bytes(orjson.dumps({"cluster_id": "bm90LXRoZS1jbHVzdGVyIQ"}))
    for part in (parts.index_items, parts.train_model, parts.replay_log):
        said = Running(part, shop.settings).ended()
        assert "another Kafka cluster" in said
        assert ours in said
        assert "bm90LXRoZS1jbHVzdGVyIQ" in said
    with pytest.raises(StreamingError, match="another Kafka cluster"):
        job_supervision.keep(shop.settings, threading.Event(), lambda _: None, threading.Event())
