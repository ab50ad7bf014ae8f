"""Clicks and items over HTTP into real Kafka and the real job: whole requests, once each."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from deploy.ingest.forgotten_users import ForgottenUsers
from deploy.ingest.item_changes import ItemChanges, TopicEnd
from deploy.ingest.kafka_writer import KafkaAway, KafkaWriter
from deploy.ingest.records import Record
from deploy.ingest.routes import router
from indexer.catalogue.property_reader import PropertyReader
from indexer.indexing import process
from indexer.indexing.config import IndexerConfig
from streaming.committed_topic import read_all
from streaming.events import HEARTBEAT, Click
from streaming.items import Item
from streaming.job.accounting import StreamEnd
from streaming.job.flink_rest import FlinkRest
from streaming.topics import Topics, create_topics
from tests.streaming.job.live_stream import LiveStream

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(300)]


class Shop:
    """A writer in its thread, and the routes over it."""

    def __init__(self, broker, topics: Topics, folder: Path) -> None:
        self.connection, self.topics = broker.connection, topics
        self.writer = KafkaWriter(broker.connection, folder / "producer", topics.clicks, 5000)
        self.app = FastAPI()
        ends = TopicEnd(broker.connection, topics.items)
        changes = ItemChanges(self.writer, topics, PropertyReader(folder), ends)
        forgotten = ForgottenUsers(folder)
        routes = router(self.writer, changes, topics, lambda: None, lambda *_: {}, forgotten)
        self.app.include_router(routes)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.writer.run, args=(self._stop,))
        self._thread.start()

    def post(self, path: str, **more) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://shop") as http:
                return await http.request(more.pop("method", "POST"), path, **more)

        return asyncio.run(ask())

    def clicks(self) -> list[Click]:
        found = [Click.from_bytes(r.value) for r in read_all(self.connection, self.topics.clicks)]
        return [click for click in found if click.event_type != HEARTBEAT]

    def close(self) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()


@pytest.fixture
def shop(kafka_broker, tmp_path: Path) -> Iterator[Shop]:
    topics = Topics().prefixed(f"ingestion-{tmp_path.name}-")
    admin = kafka_broker.connection.admin()
    create_topics(admin, topics, partitions=2)
    admin.close()
    one = Shop(kafka_broker, topics, tmp_path)
    yield one
    one.close()


def test_what_is_acknowledged_is_in_kafka_and_withdrawn_items_have_no_value(shop: Shop) -> None:
    now_ms = time.time_ns() // 1_000_000
    events = [{"user_id": f"u{n % 9}", "item_id": n, "event_time": now_ms} for n in range(300)]
    answer = shop.post("/v1/events", json={"events": events})
    assert answer.status_code == 200, answer.text
    ids = answer.json()["event_ids"]
    assert sorted(ids) == sorted(click.event_id for click in shop.clicks())
    lines = "\n".join(f'{{"user_id": "u{n}", "item_id": "i{n}"}}' for n in range(5))
    told = shop.post("/v1/events", content=lines, headers={"Content-Type": "application/x-ndjson"})
    assert told.json()["accepted"] == 5 and len(shop.clicks()) == 305
    listed = [{"item_id": "B00X", "title": "Rose water", "category": "Toners"}, {"item_id": 7}]
    assert shop.post("/v1/items", json={"items": listed}).json() == {"accepted": 2}
    assert shop.post("/v1/items/B00X", method="DELETE").json() == {"accepted": 1}
    rose, seven, gone = list(read_all(shop.connection, shop.topics.items))
    assert Item.from_bytes(rose.value).external_id == "B00X" and gone.key == rose.key
    assert Item.from_bytes(seven.value).item_id == 7 and gone.value is None


@pytest.fixture
def indexed(shop: Shop, tmp_path: Path) -> Iterator[PropertyReader]:
    """What an indexer tells of the shop's items."""
    stop = threading.Event()
    more: dict[str, Any] = {"data_dir": tmp_path, "stop": stop, "report": lambda _: None}
    indexer = threading.Thread(
        target=process.run,
        args=(IndexerConfig(),),
        kwargs=more | {"kafka": shop.connection, "topics": shop.topics},
    )
    indexer.start()
    yield PropertyReader(tmp_path)
    stop.set()
    indexer.join(60)


def test_a_change_is_told_within_seconds_and_keeps_what_was_said(shop: Shop, indexed) -> None:
    rose = {"item_id": "B00X", "title": "Rose water", "attributes": {"price": 3, "new": True}}
    assert shop.post("/v1/items/B00X", method="PATCH", json={"title": "x"}).status_code == 404
    assert shop.post("/v1/items", json={"items": [rose]}).status_code == 200
    seconds = []
    for n in range(20):
        state = ("hidden", "listed")[n % 2]
        change = {"state": state, "attributes": {"price": n, "new": None}}
        answer = shop.post("/v1/items/B00X", method="PATCH", json=change)
        assert answer.status_code == 200, answer.text
        began = time.monotonic()
        while len(indexed.read().unlisted) != (state == "hidden"):
            assert time.monotonic() < began + 30
            time.sleep(0.02)
        seconds.append(time.monotonic() - began)
    p95 = float(np.quantile(seconds, 0.95))
    print(f"a change is told after {np.median(seconds):.2f} s, 95 % within {p95:.2f} s")
    assert p95 < 1.5  # a service looks several times a second
    last = list(read_all(shop.connection, shop.topics.items))[-1]
    told = Item.from_bytes(last.value)
    assert (told.title, told.external_id, told.attributes) == ("Rose water", "B00X", {"price": 19})
    assert shop.post("/v1/items/B00X", method="DELETE").status_code == 200
    assert shop.post("/v1/items/B00X", method="PATCH", json={"title": "x"}).status_code == 404


def test_a_broker_that_dies_takes_whole_requests_or_none(shop: Shop, kafka_broker) -> None:
    def record(request: int, n: int) -> Record:
        text = f"{request}-{n}"
        click = Click(text, n, n, 1_700_000_000_000, "x" * 1000)  # of several batches
        return Record(shop.topics.clicks, click.key(), click.to_bytes())

    taken: list[int] = []
    refused: list[float] = []

    async def write(request: int) -> None:
        began = time.monotonic()
        try:
            await shop.writer.write([record(request, n) for n in range(40)])
            taken.append(request)
        except KafkaAway:
            refused.append(time.monotonic() - began)

    async def play() -> None:
        writing = [asyncio.create_task(write(0))]
        for request in range(1, 200):
            if request == 60:
                await asyncio.gather(*writing)
                await asyncio.to_thread(kafka_broker.kill)
            await asyncio.sleep(0.05)
            writing.append(asyncio.create_task(write(request)))
        await asyncio.gather(*writing)

    asyncio.run(play())
    assert len(taken) == 60 and len(refused) == 140
    assert max(refused) < 15 and sum(seconds < 1 for seconds in refused) > 40
    kafka_broker.start()
    counts = Counter(click.event_id.split("-")[0] for click in shop.clicks())
    assert set(counts.values()) == {40} and len(counts) >= 60  # one may be in, and not have heard

    async def again() -> None:
        for request in range(60, 200):
            while request not in taken:
                await write(request)
                await asyncio.sleep(0.05)

    asyncio.run(again())
    found = {click.event_id for click in shop.clicks()}
    assert found == {f"{request}-{n}" for request in range(200) for n in range(40)}


@pytest.mark.slow
@pytest.mark.parametrize("at", [0.02, 0.06, 0.15, 0.3])
def test_a_broker_that_stands_still_for_ten_seconds_takes_no_half(shop, kafka_broker, at) -> None:
    """So long that records expire, and not so long that Kafka ends the transaction by itself."""

    def request(number: int, count: int = 600) -> list[Record]:
        found = []
        for n in range(count):
            click = Click(f"{number}-{n}", n, n, 1_700_000_000_000, "x" * 900)
            found.append(Record(shop.topics.clicks, click.key(), click.to_bytes()))
        return found

    async def play() -> list[int]:
        await shop.writer.write(request(0))
        writing = [asyncio.create_task(shop.writer.write(request(n))) for n in (1, 2, 3)]
        await asyncio.sleep(at)
        os.kill(kafka_broker.process.process.pid, signal.SIGSTOP)
        await asyncio.sleep(10)
        os.kill(kafka_broker.process.process.pid, signal.SIGCONT)
        said = await asyncio.gather(*writing, return_exceptions=True)
        return [0, *(n for n, error in zip((1, 2, 3), said, strict=True) if error is None)]

    taken = asyncio.run(play())
    shop.close()  # what is open is ended by the next one of its name, or by Kafka
    time.sleep(20)
    counts = Counter(int(click.event_id.split("-")[0]) for click in shop.clicks())
    assert set(counts.values()) == {600} and set(taken) <= set(counts), (taken, counts)


@pytest.fixture
def stream(kafka_broker, flink_cluster, tmp_path: Path) -> Iterator[LiveStream]:
    stream = LiveStream(kafka_broker, flink_cluster, tmp_path, "ingestion", partitions=2)
    yield stream
    stream.stop()


def test_the_last_click_becomes_a_sequence_and_is_a_click_once(stream, kafka_broker, tmp_path):
    shop = Shop(kafka_broker, stream.topics, tmp_path)
    stream.start()
    one = {"user_id": "ada", "item_id": "B00X"}
    for key in ("first", "first", "second"):
        told = {"Idempotency-Key": key}
        assert shop.post("/v1/events", json={"events": [one]}, headers=told).status_code == 200
    stream.wait(lambda: sum(map(len, stream.sequences().values())) == 2, 120)
    flink = FlinkRest(stream.cluster.address, stream.cluster.tls)
    end = StreamEnd(stream.connection, stream.topics, stream.config.name, flink)
    stream.wait(lambda: end.lag() <= 1, 30)  # each partition ends with heartbeats and transactions
    end.close()
    stream.wait_until_drained()
    stream.forget(stream.topics.sequences)
    ((user, sequences),) = stream.sequences().items()
    assert [len(s.history_items) for s in sequences] == [0, 1] and user == sequences[0].user_id
    accounts = stream.accounts()
    assert (accounts.clicks, accounts.duplicates, accounts.lost) == (3, 1, 0)
    shop.close()
