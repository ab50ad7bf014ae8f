"""Poison and tombstones on `items`, through a real broker, into the indexer and the service."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from kafka import KafkaAdminClient, KafkaProducer
from typer.testing import CliRunner

from deploy.commands.app import app
from deploy.release.decisions import Decision, decide
from deploy.service.snapshot_follower import SnapshotFollower
from indexer.search.config import SearchConfig
from indexer.search.query import Query
from streaming.items import Item
from streaming.topics import Topics, create_topics
from tests.colliding import NUMBER, ONE, OTHER
from tests.end_to_end.test_indexer_kafka import Running, catalogue
from tests.indexer.stand_in import StandIn

pytestmark = pytest.mark.end_to_end


def named(item_id: str, title: str = "") -> bytes:
    """As another producer writes an item."""
    return json.dumps({"item_id": item_id, "title": title, "listed_at": 5}).encode()


BIG = Item(8, "t" * 2_000_000, listed_at=5)
POISON: dict[str, tuple[bytes, bytes | None, str]] = {
    "beyond 63 bits": (b"7", b'{"item_id":7,"listed_at":9223372036854775808}', "listed_at"),
    "a title of 2 MB": (b"8", BIG.to_bytes(), "value is"),
    "a title of 9 KB": (b"9", Item(9, "t" * 9000, listed_at=5).to_bytes(), "title is 9000"),
    "nanoseconds": (b"10", Item(10, listed_at=14 * 10**17).to_bytes(), "looks like nanoseconds"),
    "negative": (b"-3", Item(-3, listed_at=5).to_bytes(), "item_id -3 is negative"),
    "no JSON": (b"13", b"\xff\x00", "not JSON"),
    "nobody's tombstone": (b" ", None, "not an item_id"),
    "the number of another text": (b"x", named(OTHER), f"the number of another item, '{ONE}'"),
    "its tombstone": (OTHER.encode(), None, f"the number of another item, '{ONE}'"),
}


@pytest.fixture
def topics(kafka_broker, request) -> Topics:
    topics = Topics().prefixed(f"items-{abs(hash(request.node.name))}-")
    admin = KafkaAdminClient(bootstrap_servers=kafka_broker.bootstrap)
    create_topics(admin, topics)
    admin.close()
    return topics


class Shop:
    """Who lists items and withdraws them."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._producer = KafkaProducer(bootstrap_servers=bootstrap, max_request_size=8 << 20)
        self._topic = topic

    def send(self, key: bytes, value: bytes | None) -> None:
        self._producer.send(self._topic, value, key)

    def list(self, *items: Item) -> None:
        for item in items:
            self.send(item.key(), item.to_bytes())
        self._producer.flush()

    def withdraw(self, *item_ids: int) -> None:
        for item_id in item_ids:
            self.send(b"%d" % item_id, None)
        self._producer.flush()

    def close(self) -> None:
        self._producer.close()


@pytest.fixture
def shop(kafka_broker, topics) -> Iterator[Shop]:
    shop = Shop(kafka_broker.bootstrap, topics.items)
    yield shop
    shop.close()


def sparc(bootstrap: str, topics: Topics, folder: Path, *arguments: str) -> str:
    variables = {
        "SPARC_KAFKA__BOOTSTRAP": bootstrap,
        "SPARC_KAFKA__PREFIX": topics.items.removesuffix("items"),
        "SPARC_DATA_DIR": str(folder),
    }
    result = CliRunner().invoke(app, list(arguments), env=variables)
    assert result.exit_code == 0, result.output
    return result.output


def test_poison_is_kept_aside_and_ends_neither_this_start_nor_the_next(
    kafka_broker, topics, shop, tmp_path
):
    model = StandIn.make(50)
    shop.send(ONE.encode(), named(ONE, "soap"))
    for key, value, _ in POISON.values():
        shop.send(key, value)
    shop.list(*catalogue(model))
    model.hand_over(tmp_path, 1, {"0": 1 + len(POISON) + 50})
    for _ in range(2):
        with Running(kafka_broker.bootstrap, topics, tmp_path) as process:
            process.wait_for(lambda s: s["caught_up"] and s["version"] == 1)
            assert process.status["indexed_items"] == process.status["catalogue_items"] == 51
            assert process.status["items_refused"] == len(POISON)
    said = sparc(kafka_broker.bootstrap, topics, tmp_path, "dlq", "list", "--json")
    letters = [json.loads(line) for line in said.splitlines()]
    assert len(letters) == len(POISON)  # once: the second start did not refuse them again
    for n, (letter, (key, value, reason)) in enumerate(zip(letters, POISON.values(), strict=True)):
        assert (letter["place"], letter["topic"], letter["offset"]) == (
            f"items:0:{n}",
            topics.items,
            n + 1,
        )
        assert reason in letter["reason"]
        assert letter["key"] == key.decode()
        assert value == (
            letter["value"].encode() if letter.get("value") else b"\xff\x00" if value else None
        )
    answers = Answers(tmp_path)
    assert NUMBER in answers()
    assert answers.follower.retriever.titles([NUMBER])[0] == {
        "title": "soap", "category": "", "external_id": ONE
    }  # fmt: skip
    shop.send(ONE.encode(), None)
    with Running(kafka_broker.bootstrap, topics, tmp_path):
        answers.until(lambda found: NUMBER not in found)


def test_a_dead_letter_that_was_mended_is_listed(kafka_broker, topics, shop, tmp_path):
    model = StandIn.make(50)
    shop.list(*catalogue(model), Item(900_000, "t" * 9000, listed_at=5))
    model.hand_over(tmp_path, 1, {"0": 50})
    with Running(kafka_broker.bootstrap, topics, tmp_path) as process:
        process.wait_for(lambda s: s["caught_up"] and s["items_refused"] == 1)
        said = sparc(kafka_broker.bootstrap, topics, tmp_path, "dlq", "list", "--json")
        letter = json.loads(said) | {
            "value": Item(900_000, "short", listed_at=5).to_bytes().decode()
        }
        edited = tmp_path / "edited.jsonl"
        edited.write_text(json.dumps(letter) + "\n", encoding="utf-8")
        sparc(kafka_broker.bootstrap, topics, tmp_path, "dlq", "replay", "--edited", str(edited))
        process.wait_for(lambda s: s["caught_up"] and s["indexed_items"] == 51)
        assert process.status["items_refused"] == 1


class Answers:
    """The service's follower on a data directory, as it answers."""

    def __init__(self, data_dir: Path) -> None:
        self.follower = SnapshotFollower(data_dir, SearchConfig(codes=16), load_model=StandIn.load)

    def __call__(self, k: int = 500) -> set[int]:
        self.follower.poll()
        state = self.follower.retriever
        return set() if state is None else set(state.answer(Query([], k=k)).items)

    def until(self, done) -> float:
        """Seconds until an answer is so."""
        began = time.monotonic()
        while not done(self()):
            assert time.monotonic() - began < 20
            time.sleep(0.02)
        return time.monotonic() - began


def test_a_withdrawn_or_hidden_item_is_gone_within_seconds_until_it_is_listed_again(
    kafka_broker, topics, shop, tmp_path
):
    model = StandIn.make(100, 8)
    items = catalogue(model)
    gone, others = [item.item_id for item in items[:20]], {item.item_id for item in items[20:]}
    shop.list(*items)
    model.hand_over(tmp_path, 1, {"0": 100})
    answers = Answers(tmp_path)
    with Running(kafka_broker.bootstrap, topics, tmp_path) as process:
        process.wait_for(lambda s: s["caught_up"] and s["version"] == 1)
        assert answers() == others | set(gone)
        model.moved(0.1).hand_over(tmp_path, 2, {"0": 100})
        process.wait_for(lambda s: s["caught_up"] and s["version"] == 2)
        seconds = []
        for n, one in enumerate(gone):
            if n % 2:
                shop.withdraw(one)
            else:
                shop.list(replace(items[n], state="hidden"))
            seconds.append(answers.until(lambda found, one=one: one not in found))
        p95 = float(np.quantile(seconds, 0.95))
        print(f"such an item is gone after {np.median(seconds):.2f} s, 95 % within {p95:.2f} s")
        assert p95 < 2.0
        assert answers() == others
        process.wait_for(lambda s: (s["withdrawn_items"], s["hidden_items"]) == (10, 10))
        assert process.status["items_refused"] == 0
        # back to the version that was built before, and to a service that has just begun
        decide(tmp_path, Decision(1, "pinned", "person", "back"))
        answers.until(lambda _: answers.follower.retriever.version == 1)
        assert answers() == Answers(tmp_path)() == others
    with Running(kafka_broker.bootstrap, topics, tmp_path) as process:
        process.wait_for(lambda s: s["caught_up"] and s["hidden_items"] == 10)
        assert Answers(tmp_path)() == others
        model.moved(0.2).hand_over(tmp_path, 3, {"0": 120})
        process.wait_for(lambda s: s["caught_up"] and s["version"] == 3)
        decide(tmp_path, Decision(3, "promoted", "person", "and on"))
        answers.until(lambda _: answers.follower.retriever.version == 3)
        assert answers() == Answers(tmp_path)() == others
        shop.list(items[0])
        answers.until(lambda found: found == others | {gone[0]})
