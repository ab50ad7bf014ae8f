"""The real job on a real broker and cluster, compared with the oracle record by record."""

from __future__ import annotations

import csv
import hashlib
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from kafka import KafkaAdminClient

from streaming.events import UserSequence
from streaming.job.accounting import Accounts
from tests.colliding import ONE, OTHER
from tests.streaming.job.live_stream import LiveStream
from tests.streaming.made_clicks import DELAY, click, disordered_log, heartbeat, named, poison
from tests.streaming.oracle import expect

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(600)]

BEAUTY = Path(__file__).resolve().parents[3] / "shared" / "data" / "beauty" / "events.csv"


@pytest.fixture
def stream(kafka_broker, flink_cluster, tmp_path, request) -> Iterator[LiveStream]:
    name = request.node.name.removeprefix("test_")[:40]
    stream = LiveStream(kafka_broker, flink_cluster, tmp_path, name)
    yield stream
    stream.stop()


def test_disorder_duplicates_poison_and_late_clicks_come_out_as_the_oracle_says(stream):
    log = disordered_log(random.Random(3), 3000)
    expected = expect(log)
    assert len(expected.late) > 50
    assert len(expected.dead_letters) > 50
    assert expected.duplicates > 50
    assert sum(field == "user_id" for _, field in expected.dead_letters.values()) > 10
    assert sum(s.external_target_id == "B0" for some in expected.sequences.values() for s in some)
    assert max(map(len, expected.sequences.values())) > 60
    stream.start()
    stream.send(log)
    stream.wait_until_drained()
    stream.assert_as_expected(expected)
    accounts = stream.accounts()
    assert (accounts.lost, accounts.duplicates) == (0, expected.duplicates)


def test_parallel_operators_keep_the_order_of_each_user(stream):
    stream.config = replace(stream.config, parallelism=2)
    admin = KafkaAdminClient(bootstrap_servers=stream.broker.bootstrap)
    both = [stream.topics.clicks, stream.topics.sequences]
    admin.create_partitions({both[0]: 4, both[1]: 3})
    # a partition that the job finds later than the others would be behind their watermark
    while sum(len(t["partitions"]) for t in admin.describe_topics(both)) < 7:
        time.sleep(0.1)
    admin.close()
    rng = random.Random(7)
    now, log = 10**12, []
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
    assert stream.sequences() == expect([*log, ends[0]]).sequences
    assert stream.accounts().lost == 0


def test_killed_anywhere_the_topics_are_the_same(stream):
    rng = random.Random(5)
    now, log = 10**12, []
    for _ in range(40_000):
        now += rng.choice([0, 1, 20])
        when = now - rng.randint(0, 4999)
        if rng.random() < 0.1:
            log.append(named(rng.choice([ONE, OTHER, f"user:{rng.randint(1, 30)}"]), "B0", when))
        else:
            log.append(click(rng.randint(1, 300), rng.randint(1, 999), when))
        if rng.random() < 0.01:
            log.append(rng.choice(log[-500:]))
        if rng.random() < 0.001:
            log.append(rng.choice(list(poison(now).values()))[0])
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
    stream.assert_as_expected(expected)
    accounts = stream.accounts()
    assert (accounts.lost, accounts.duplicates) == (0, expected.duplicates)
    stream.forget(stream.topics.sequences)
    written = [UserSequence.from_bytes(r.value) for r in stream.read(stream.topics.sequences)]
    order = [(s.event_time, s.user_id, s.position) for s in written]
    assert order == sorted(order)
    assert len(written) - len({s.event_time for s in written}) > 1000  # at the time of another


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
