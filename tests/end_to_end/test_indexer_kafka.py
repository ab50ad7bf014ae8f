"""The indexing process against a real broker: items in, snapshots out, and again after kill -9."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from kafka import KafkaAdminClient, KafkaProducer

from indexer.errors import IndexerError
from indexer.indexing.config import IndexerConfig
from indexer.indexing.process import run
from indexer.snapshots.snapshot_reading import load_served
from streaming.bounds import DAY_MS
from streaming.committed_topic import read_all
from streaming.item_lifetime import ItemsConfig
from streaming.items import Item
from streaming.kafka_clients import KafkaConnection
from streaming.statuses import PartStatus
from streaming.topics import Topics, create_topics
from tests.indexer.stand_in import StandIn

pytestmark = pytest.mark.end_to_end


@pytest.fixture
def topics(kafka_broker, request) -> Topics:
    topics = Topics().prefixed(f"indexer-{abs(hash(request.node.name))}-")
    admin = KafkaAdminClient(bootstrap_servers=kafka_broker.bootstrap)
    create_topics(admin, topics)
    admin.close()
    return topics


@pytest.fixture
def produce(kafka_broker, topics) -> Iterator[Callable[[list[Item]], None]]:
    producer = KafkaProducer(bootstrap_servers=kafka_broker.bootstrap)

    def send(items: list[Item]) -> None:
        for item in items:
            producer.send(topics.items, key=item.key(), value=item.to_bytes())
        producer.flush()

    yield send
    producer.close()


class Running:
    """The process in a thread, and the status that it reported last."""

    def __init__(
        self,
        bootstrap: str,
        topics: Topics,
        data_dir: Path,
        config: IndexerConfig = IndexerConfig(),  # noqa: B008 - frozen
        items: ItemsConfig | None = None,
    ) -> None:
        self.status: dict[str, Any] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=run,
            args=(config,),
            kwargs={
                "kafka": KafkaConnection(bootstrap),
                "topics": topics,
                "data_dir": data_dir,
                "stop": self._stop,
                "report": self._report,
                "load_model": StandIn.load,
                "items": items,
            },
        )

    def _report(self, status: PartStatus) -> None:
        self.status = orjson.loads(orjson.dumps(status.to_json()))

    def __enter__(self) -> Running:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(20)
        assert not self._thread.is_alive()

    def wait_for(self, condition: Callable[[dict[str, Any]], bool], seconds: float = 30) -> None:
        until = time.monotonic() + seconds
        while not (self.status and condition(self.status)):
            assert time.monotonic() < until, self.status
            time.sleep(0.02)


def catalogue(model: StandIn) -> list[Item]:
    return [Item(int(i), f"title {i}", listed_at=5) for i in model.item_ids_N]


def test_items_and_handovers_become_what_is_served_and_new_items_follow_in_seconds(
    kafka_broker, topics, produce, tmp_path
):
    model = StandIn.make(500, 16)
    produce(catalogue(model))
    with Running(kafka_broker.bootstrap, topics, tmp_path) as process:
        process.wait_for(lambda s: s["catalogue_items"] == 500 and s["items_lag"] == 0)
        assert process.status["state"] == "waiting for the first handover"
        model.hand_over(tmp_path, 1, {"0": 500})
        process.wait_for(lambda s: s["version"] == 1 and s["caught_up"])
        assert process.status["indexed_items"] == 500
        produce([Item(900_000, "new", listed_at=9)])
        began, snapshot = time.monotonic(), None
        while snapshot is None or 900_000 not in snapshot.items.item_ids_N:
            snapshot = load_served(tmp_path, StandIn.load, snapshot)
            assert time.monotonic() - began < 10
            time.sleep(0.02)
        assert time.monotonic() - began < 2
    assert process.status["state"] == "stopped"


def test_items_whose_time_is_over_are_withdrawn_on_the_topic(
    kafka_broker, topics, produce, tmp_path
):
    model, now = StandIn.make(50), 40 * DAY_MS
    young = Item(900_000, "new", listed_at=now - DAY_MS)
    produce([*catalogue(model), young])
    with Running(
        kafka_broker.bootstrap, topics, tmp_path, items=ItemsConfig(ttl_days=30)
    ) as process:
        model.hand_over(tmp_path, 1, {"0": 51}, event_time_range=[0, now])
        process.wait_for(lambda s: s["withdrawn_items"] == 50 and s["caught_up"])
        assert process.status["catalogue_items"] == process.status["indexed_items"] == 1
    records = list(read_all(KafkaConnection(kafka_broker.bootstrap), topics.items))[51:]
    assert {one.key for one in records} == {b"%d" % i for i in model.item_ids_N}
    assert {(one.value, one.timestamp) for one in records} == {(None, now)}


def test_items_of_an_aborted_transaction_are_none_and_nothing_waits_for_them(
    kafka_broker, topics, tmp_path, monkeypatch
):
    monkeypatch.setattr("indexer.indexing.handover_queue.ITEMS_WAIT_S", 1e9)
    model = StandIn.make(50)
    producer = KafkaProducer(
        bootstrap_servers=kafka_broker.bootstrap, transactional_id=topics.items
    )
    producer.init_transactions()
    for items, end in (
        (catalogue(model), producer.commit_transaction),
        ([Item(900_000)], producer.abort_transaction),
    ):
        producer.begin_transaction()
        for item in items:
            producer.send(topics.items, key=item.key(), value=item.to_bytes())
        producer.flush()
        end()
    producer.close()
    model.hand_over(tmp_path, 1, {"0": 53})  # the trainer's position is behind the markers
    with Running(kafka_broker.bootstrap, topics, tmp_path) as process:
        process.wait_for(lambda s: s["version"] == 1 and s["caught_up"])
        assert (process.status["catalogue_items"], process.status["indexed_items"]) == (50, 50)


def test_a_restart_reads_on_where_it_was(kafka_broker, topics, produce, tmp_path):
    model = StandIn.make(100)
    produce(catalogue(model))
    model.hand_over(tmp_path, 1, {"0": 100})
    with Running(kafka_broker.bootstrap, topics, tmp_path) as process:
        process.wait_for(lambda s: s["caught_up"] and s["version"] == 1)
    produce([Item(900_000, listed_at=9)])
    with Running(kafka_broker.bootstrap, topics, tmp_path) as process:
        process.wait_for(lambda s: s["caught_up"] and s["catalogue_items"] == 101)
        process.wait_for(lambda s: s["indexed_items"] == 101)
        assert process.status["version"] == 1


def test_handovers_are_indexed_while_kafka_is_away_and_items_follow_when_it_is_back(
    kafka_broker, topics, produce, tmp_path
):
    model = StandIn.make(50)
    produce(catalogue(model))
    model.hand_over(tmp_path, 1, {"0": 50})
    with Running(kafka_broker.bootstrap, topics, tmp_path) as process:
        process.wait_for(lambda s: s["caught_up"] and s["version"] == 1)
        kafka_broker.kill()
        process.wait_for(lambda s: s["state"] == "waiting for Kafka")
        assert not process.status["caught_up"]
        model.hand_over(tmp_path, 2, {"0": 50})
        process.wait_for(lambda s: s["version"] == 2)
        kafka_broker.start()
        produce([Item(900_000, listed_at=9)])
        process.wait_for(lambda s: s["caught_up"] and s["indexed_items"] == 51, 60)


def test_kill_9_while_reading_and_indexing_loses_and_doubles_nothing(
    kafka_broker, topics, produce, tmp_path
):
    model = StandIn.make(2000, 16)
    produce(catalogue(model))
    for number in (1, 2, 3):
        model.moved(0.1, number).hand_over(tmp_path, number, {"0": 2000})
    fork = multiprocessing.get_context("spawn")
    for seconds in (1.5, 1.8, 2.4):
        child = fork.Process(
            target=_run_until_killed, args=(kafka_broker.bootstrap, topics, tmp_path)
        )
        child.start()
        time.sleep(seconds)
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
    with Running(kafka_broker.bootstrap, topics, tmp_path) as process:
        process.wait_for(lambda s: s["caught_up"] and s["handover"] == 3)
        assert process.status["catalogue_items"] == process.status["indexed_items"] == 2000
    snapshot = load_served(tmp_path, StandIn.load)
    assert snapshot is not None and len(snapshot.lists) == 2000


def _run_until_killed(bootstrap: str, topics: Topics, data_dir: Path) -> None:
    run(
        IndexerConfig(),
        kafka=KafkaConnection(bootstrap),
        topics=topics,
        data_dir=data_dir,
        stop=threading.Event(),
        report=lambda status: None,
        load_model=StandIn.load,
    )


def test_a_topic_that_does_not_exist_and_a_broker_that_is_away_are_one_clear_line(
    kafka_broker, free_ports, tmp_path
):
    more = {"data_dir": tmp_path, "stop": threading.Event(), "report": print}
    with pytest.raises(IndexerError, match="'nowhere-items' does not exist"):
        run(
            IndexerConfig(),
            kafka=kafka_broker.connection,
            topics=Topics().prefixed("nowhere-"),
            **more,
        )
    [port] = free_ports(1)
    with pytest.raises(IndexerError, match="cannot be read"):
        run(
            IndexerConfig(),
            kafka=KafkaConnection(f"127.0.0.1:{port}", {"bootstrap_timeout_ms": 1000}),
            topics=Topics(),
            **more,
        )


def test_all_state_deleted_and_kafka_read_again_gives_the_same_index(
    kafka_broker, topics, produce, tmp_path
):
    first = StandIn.make(300, 8)
    produce(catalogue(first))
    first.hand_over(tmp_path, 1, {"0": 300})
    with Running(kafka_broker.bootstrap, topics, tmp_path) as process:
        process.wait_for(lambda s: s["caught_up"] and s["version"] == 1)
        produce([Item(900_000 + n, f"new {n}", listed_at=9) for n in range(20)])
        produce([Item(int(first.item_ids_N[7]), "another title", listed_at=10)])
        process.wait_for(lambda s: s["caught_up"] and s["indexed_items"] == 320)
        first.moved(0.2, 2, share=0.1).hand_over(tmp_path, 2, {"0": 310})
        process.wait_for(lambda s: s["caught_up"] and s["version"] == 2)
        produce([Item(950_000, "newest", listed_at=11)])
        process.wait_for(lambda s: s["caught_up"] and s["indexed_items"] == 321)
    before = digest(tmp_path)
    for name in ("indexer", "snapshots", "appended"):
        shutil.rmtree(tmp_path / name)
    (tmp_path / "current.json").unlink()
    with Running(kafka_broker.bootstrap, topics, tmp_path) as process:
        process.wait_for(lambda s: s["caught_up"] and s["indexed_items"] == 321)
        process.wait_for(lambda s: s["handover"] == 2)
    assert digest(tmp_path) == before


def digest(data_dir: Path) -> str:
    """Of every served item: codes, vector and features."""
    snapshot = load_served(data_dir, StandIn.load)
    assert snapshot is not None
    ids = np.sort(snapshot.lists.item_ids_N[snapshot.lists.item_ids_N >= 0])
    found = hashlib.sha256(snapshot.lists.vectors_of(ids).tobytes())
    for item in snapshot.describe(ids.tolist()):
        found.update(orjson.dumps(item))
    return found.hexdigest()
