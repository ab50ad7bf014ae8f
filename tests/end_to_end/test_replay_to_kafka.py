"""A replay into a real broker: complete, in order, once; whatever is killed on the way."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.partitioner.default import murmur2

from replay import synthetic
from replay.announced_items import read_announced
from replay.config import CLIENTS, ReplayConfig
from replay.errors import ReplayError
from replay.producer import Patience
from replay.replay import run
from replay.resumption import Mark, find_stored
from replay.staging import stage
from replay.synthetic import SyntheticConfig
from streaming.events import CLICK, HEARTBEAT, Click
from streaming.items import Item
from streaming.kafka_clients import KafkaConnection
from streaming.statuses import ReplayStatus
from streaming.topics import Topics, create_topics

pytestmark = pytest.mark.end_to_end
ROOT = Path(__file__).resolve().parents[2]
SMALL = SyntheticConfig(users=400, items=300, events=20_000, days=100)
PARTITIONS = 3
DRIVER = """
import json, sys, threading
from pathlib import Path
from replay.config import ReplayConfig
from replay.replay import run
from replay.synthetic import SyntheticConfig
from streaming.kafka_clients import KafkaConnection
from streaming.topics import Topics
a = json.loads(sys.argv[1])
config = ReplayConfig(
    synthetic=SyntheticConfig(**a["synthetic"]), heartbeat_seconds=0.1, client=a["client"]
)
run(config, KafkaConnection(a["bootstrap"]), Topics().prefixed(a["prefix"]),
    Path(a["data_dir"]), threading.Event(),
    lambda status: print(json.dumps(status.to_json()), flush=True), partitions=a["partitions"])
"""
_numbers = itertools.count()


@dataclass
class Target:
    """Topics of one test."""

    bootstrap: str
    topics: Topics
    prefix: str
    data_dir: Path

    def run(self, config: ReplayConfig, stop=None, report=None) -> dict[str, Any]:
        return run(
            config,
            KafkaConnection(self.bootstrap),
            self.topics,
            self.data_dir,
            stop or threading.Event(),
            report or (lambda status: None),
            partitions=PARTITIONS,
        )

    def process(self, size: SyntheticConfig, client: str) -> subprocess.Popen[str]:
        arguments = {
            "synthetic": vars(size),
            "client": client,
            "bootstrap": self.bootstrap,
            "prefix": self.prefix,
            "data_dir": str(self.data_dir),
            "partitions": PARTITIONS,
        }
        command = [sys.executable, "-c", DRIVER, json.dumps(arguments)]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    def records(self, topic: str) -> list[Any]:
        consumer = KafkaConsumer(
            bootstrap_servers=self.bootstrap, group_id=None, enable_auto_commit=False
        )
        numbers = sorted(consumer.partitions_for_topic(topic))
        partitions = [TopicPartition(topic, number) for number in numbers]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        end = consumer.end_offsets(partitions)
        found = []
        while any(consumer.position(p) < end[p] for p in partitions):
            for records in consumer.poll(1000).values():
                found += records
        consumer.close()
        return found

    def clicks(self) -> tuple[list[tuple[Any, Click]], list[tuple[Any, Click]]]:
        """Records with their clicks, and those of the heartbeats."""
        read = [(r, Click.from_bytes(r.value)) for r in self.records(self.topics.clicks)]
        return (
            [(r, c) for r, c in read if c.event_type == CLICK],
            [(r, c) for r, c in read if c.event_type == HEARTBEAT],
        )

    def assert_complete(self, log) -> None:
        """Every event is there once, and every partition is in the order of the log."""
        expected = [
            Click(*row) for batch in log.read_events() for row in zip(*batch[1:], strict=True)
        ]
        clicks, heartbeats = self.clicks()
        positions = [int(dict(r.headers)["log_position"]) for r, _ in clicks]
        assert sorted(positions) == list(range(len(expected)))
        assert all(expected[p] == c for p, (_, c) in zip(positions, clicks, strict=True))
        for partition in range(PARTITIONS):
            own = [
                p for p, (r, _) in zip(positions, clicks, strict=True) if r.partition == partition
            ]
            assert own == sorted(own)
        for record, click in clicks:
            assert record.key == b"%d" % click.user_id
            assert record.partition == (murmur2(record.key) & 0x7FFFFFFF) % PARTITIONS
        final = [h for _, h in heartbeats if h.event_time == log.last_time_ms + 5000]
        assert len(final) == PARTITIONS
        assert {r.partition for r, h in heartbeats if h in final} == set(range(PARTITIONS))
        items = [Item.from_bytes(r.value) for r in self.records(self.topics.items)]
        assert items == [item for _, item in log.read_items()]


@pytest.fixture
def target(kafka_broker, tmp_path: Path) -> Target:
    prefix = f"replay-{next(_numbers)}-{time.time_ns()}-"
    return Target(kafka_broker.bootstrap, Topics().prefixed(prefix), prefix, tmp_path)


@pytest.fixture
def log(tmp_path: Path):
    return stage(*synthetic.write(SMALL, tmp_path / "made"), tmp_path / "expected", 2 * 10**12)


def test_every_event_arrives_in_order_and_items_before_the_first(target, log):
    seen: list[ReplayStatus] = []
    totals = target.run(ReplayConfig(synthetic=SMALL), report=seen.append)
    assert (totals["events_read"], totals["clicks_produced"]) == (20_000, 20_000)
    assert (totals["items_announced"], totals["bad_lines"], totals["done"]) == (300, 0, True)
    assert [s.state for s in seen][0] == "staging"
    assert seen[-1].to_json() == totals
    target.assert_complete(log)
    first_click = min(r.timestamp for r in target.records(target.topics.clicks))
    assert max(r.timestamp for r in target.records(target.topics.items)) <= first_click
    # A second start finds everything there, and adds nothing, not even a heartbeat.
    before = len(target.records(target.topics.clicks))
    assert target.run(ReplayConfig(synthetic=SMALL))["clicks_produced"] == 20_000
    assert len(target.records(target.topics.clicks)) == before


@pytest.mark.parametrize("client", CLIENTS)
def test_killed_again_and_again_it_loses_nothing_and_sends_nothing_twice(target, log, client):
    for threshold in (1, 9_000, 17_000):
        process = target.process(SMALL, client)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{") and json.loads(line)["clicks_produced"] >= threshold:
                break
        process.send_signal(signal.SIGKILL)
        process.stdout.read()
        assert process.wait() == -signal.SIGKILL
        process.stdout.close()
    stored = len(target.clicks()[0])
    assert stored >= 17_000
    process = target.process(SMALL, client)
    output, _ = process.communicate()
    assert process.returncode == 0
    last = json.loads(output.splitlines()[-1])
    assert (last["clicks_produced"], last["done"]) == (20_000, True)
    target.assert_complete(log)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_broker_that_is_killed_on_the_way_costs_nothing(target, log, kafka_broker, client):
    seen = list[str]()

    def report(status: ReplayStatus) -> None:
        seen.append(status.state)
        if status.clicks_produced > 5_000 and kafka_broker.process.running:
            if "waiting for Kafka" not in seen:
                kafka_broker.kill()
        elif seen.count("waiting for Kafka") == 3:
            kafka_broker.start()

    totals = target.run(ReplayConfig(synthetic=SMALL, client=client), report=report)
    assert totals["clicks_produced"] == 20_000
    assert "waiting for Kafka" in seen
    target.assert_complete(log)


def test_stopped_and_started_again_it_goes_on(target, log):
    stop = threading.Event()

    def report(status: ReplayStatus) -> None:
        if status.clicks_produced > 3000:
            stop.set()

    totals = target.run(ReplayConfig(synthetic=SMALL), stop, report)
    assert (totals["state"], totals["done"]) == ("stopped", False)
    assert 3000 < totals["clicks_produced"] < 20_000
    assert target.run(ReplayConfig(synthetic=SMALL))["done"]
    target.assert_complete(log)


def test_a_paced_replay_tells_the_time_on_every_partition(target):
    size = replace(SMALL, users=48, items=48, events=60)
    seen: list[ReplayStatus] = []
    began = time.monotonic()
    config = ReplayConfig(synthetic=size, rate=40, heartbeat_seconds=0.2)
    target.run(config, report=seen.append)
    assert time.monotonic() - began >= 59 / 40
    clicks, heartbeats = target.clicks()
    assert len(clicks) == 60
    by_partition = [[h for r, h in heartbeats if r.partition == p] for p in range(PARTITIONS)]
    assert all(len(beats) >= 4 for beats in by_partition)
    # No click is older than a heartbeat before it: the watermark never makes one late.
    for partition in range(PARTITIONS):
        told = 0
        read = [(r.offset, c) for r, c in clicks + heartbeats if r.partition == partition]
        for _, click in sorted(read, key=lambda pair: pair[0]):
            assert click.event_time >= told
            told = max(told, click.event_time)
    assert len({s.clicks_produced for s in seen}) > 4


def test_a_log_that_has_grown_goes_on_and_another_log_is_refused(target, tmp_path, log):
    events = tmp_path / "made" / "events.csv"
    lines = events.read_text().splitlines()
    grown = tmp_path / "grown.csv"
    grown.write_text("\n".join(lines[:15_001]))
    assert target.run(ReplayConfig(grown))["clicks_produced"] == 15_000
    grown.write_text("\n".join(lines))
    assert target.run(ReplayConfig(grown))["clicks_produced"] == 20_000
    assert len(target.clicks()[0]) == 20_000
    other = replace(SMALL, seed=8)
    with pytest.raises(ReplayError, match="holds another log .* begin anew with --fresh"):
        target.run(ReplayConfig(synthetic=other))
    assert len(target.clicks()[0]) == 20_000


@pytest.mark.parametrize("remembered", [True, False], ids=["staged", "by Kafka alone"])
def test_another_log_announces_nothing(target, tmp_path, remembered):
    target.run(ReplayConfig(synthetic=SMALL))
    before = [(r.key, r.value) for r in target.records(target.topics.items)]
    if not remembered:  # a data directory of an earlier version, or a new one
        shutil.rmtree(target.data_dir / "replay")
    other = replace(SMALL, items=500, seed=8)
    with pytest.raises(ReplayError, match="holds another log .* begin anew with --fresh"):
        target.run(ReplayConfig(synthetic=other))
    assert [(r.key, r.value) for r in target.records(target.topics.items)] == before
    if remembered:
        assert target.run(ReplayConfig(synthetic=SMALL))["done"]
        assert [(r.key, r.value) for r in target.records(target.topics.items)] == before


def test_of_a_large_catalogue_what_has_changed_is_announced_and_nothing_else(target, tmp_path):
    events, items = tmp_path / "e.csv", tmp_path / "i.csv"
    events.write_text("user_id,item_id,time\n1,1,1369699200\n2,9000,1369699300\n")
    titles = {n: f"title {n}" for n in range(1, 9_001)}

    def announce() -> list[Item]:
        before = len(target.records(target.topics.items)) if seen else 0
        items.write_text("item_id,title\n" + "".join(f"{n},{t}\n" for n, t in titles.items()))
        totals = target.run(ReplayConfig(events, items))
        assert totals["items_announced"] == totals["items_total"] == len(titles)
        seen.append(before)
        return [Item.from_bytes(r.value) for r in target.records(target.topics.items)[before:]]

    seen: list[int] = []
    assert len(announce()) == 9_000
    assert announce() == []
    titles[3], titles[9_001] = "a better title", "new"
    assert sorted((i.item_id, i.title) for i in announce()) == [
        (3, "a better title"),
        (9_001, "new"),
    ]
    (target.data_dir / "replay" / "announced.json").unlink()  # as an earlier version left it
    assert announce() == []


def test_kafka_that_is_not_there_is_a_clear_error(tmp_path, free_ports: Callable[[int], list[int]]):
    (port,) = free_ports(1)
    seen = list[str]()
    with pytest.raises(
        ReplayError, match=rf"Kafka at 127.0.0.1:{port} does not answer since \d+ s"
    ):
        run(
            ReplayConfig(synthetic=replace(SMALL, events=500), patience_seconds=5),
            KafkaConnection(f"127.0.0.1:{port}"),
            Topics(),
            tmp_path,
            threading.Event(),
            lambda status: seen.append(status.state),
        )
    assert "waiting for Kafka" in seen


def test_what_another_producer_has_aborted_is_no_last_word_about_an_item(
    kafka_broker, target: Target
) -> None:
    topic, item = target.topics.items, Item(7, "a title", listed_at=5)
    admin = kafka_broker.connection.admin()
    create_topics(admin, target.topics)
    admin.close()
    shop = kafka_broker.connection.producer(transactional_id=topic)
    shop.init_transactions()
    shop.begin_transaction()
    shop.send(topic, None, item.key()).get(10)
    shop.abort_transaction()
    patience = Patience(kafka_broker.connection, 5, lambda _: None)
    assert item not in read_announced(topic, patience)
    assert find_stored(topic, patience, lambda _: Mark(None, 0)).count == 0
    shop.begin_transaction()
    shop.send(topic, None, item.key()).get(10)
    shop.commit_transaction()
    shop.close()
    assert item in read_announced(topic, patience)
    assert find_stored(topic, patience, lambda _: Mark(None, 0)).count == 0
