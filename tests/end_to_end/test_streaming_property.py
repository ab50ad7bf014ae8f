"""Random logs over several partitions through the real job, against the oracle, topic by topic.

A few of them; with SPARC_LONG_TESTS=1 in the environment a hundred.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.streaming.job.live_stream import LiveStream
from tests.streaming.made_clicks import DELAY, click, evolved, heartbeat, poison
from tests.streaming.oracle import Oracle, Record

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]

PARTITIONS = 3
BUSY = (0, 1)
"""The third partition has heartbeats only."""
SENSELESS = sorted(poison(10**12))


@dataclass
class Played:
    """A running job and the oracle beside it, one piece of a log after the other."""

    stream: LiveStream
    oracle: Oracle
    watermark: int = 1_000_000_000_000

    def play(self, log: list[tuple[int, Record]], lasts: int) -> None:
        """Send a piece that lasts until `lasts`, in ms, wait for its end, and compare."""
        log = [*log, *((p, heartbeat(lasts + DELAY)) for p in range(PARTITIONS))]
        expected = self.oracle.expect(log)
        send(self.stream, log)
        self.stream.wait_until_drained()
        self.watermark = lasts
        self.stream.assert_as_expected(expected)


def send(stream: LiveStream, log: list[tuple[int, Record]]) -> None:
    to = iter([partition for partition, _ in log])
    stream.send([record for _, record in log], lambda _: next(to))


def test_a_silent_partition_holds_nothing_back_and_what_it_says_later_is_late(
    kafka_broker, flink_cluster, tmp_path
) -> None:
    stream = LiveStream(kafka_broker, flink_cluster, tmp_path, "idle", partitions=2)
    stream.config = replace(stream.config, idle_timeout_s=2.0)
    now, oracle = 1_000_000_000_000, Oracle()
    try:
        stream.start()
        for start in (now, now + 10 * DELAY):  # silent from the beginning, and silent again
            log = [(0, click(10, 1, start)), (0, heartbeat(start + DELAY))]
            expected = oracle.expect(log)
            send(stream, log)
            stream.wait(lambda n=1 + (start > now): stream.accounts().sequences == n)
            stream.wait_until_drained()
            stream.assert_as_expected(expected)
            log = [(1, click(11, 1, start))]
            expected = oracle.expect(log)
            send(stream, log)
            stream.wait_until_drained()
            assert len(expected.late) == 1
            stream.assert_as_expected(expected)
    finally:
        stream.stop()


@pytest.fixture(scope="module")
def played(kafka_broker, flink_cluster, tmp_path_factory) -> Iterator[Played]:
    stream = LiveStream(
        kafka_broker, flink_cluster, tmp_path_factory.mktemp("property"), "property", PARTITIONS
    )
    # Which of several idle partitions wakes first would decide what is late: none falls idle.
    stream.config = replace(
        stream.config, parallelism=2, checkpoint_interval_ms=200, idle_timeout_s=3600.0
    )
    try:
        stream.start()
        played = Played(stream, Oracle())
        played.play([], played.watermark)
        yield played
    finally:
        stream.stop()


users = st.integers(-2, 3)
disorder = st.sampled_from([0, 0, 1, 300, 4999])
steps = st.one_of(
    st.tuples(st.just("click"), users, disorder),
    st.tuples(st.just("click"), users, disorder),
    st.tuples(st.just("late"), users, st.sampled_from([0, 1, 7000])),
    st.tuples(st.just("evolved"), users, st.integers(0, 1)),
    st.tuples(st.just("poison"), st.sampled_from(SENSELESS), st.just(0)),
    st.tuples(st.just("heartbeat"), st.sampled_from(BUSY), st.just(0)),
    st.tuples(st.just("again"), st.integers(0, 200), st.just(0)),
)
logs = st.lists(st.tuples(st.sampled_from([0, 0, 1, 900, 20_000]), steps), min_size=1, max_size=120)
numbers = count(1)


def made(log: list, watermark: int) -> tuple[list[tuple[int, Record]], int]:
    """The records of a log, with their partitions, and its last time."""
    now = watermark + DELAY + 1
    first_user = 100 * next(numbers)
    records: list[tuple[int, Record]] = []
    for number, (passes, (kind, who, much)) in enumerate(log):
        now += passes
        if kind == "heartbeat":
            records.append((who, heartbeat(now)))
        elif kind == "poison":
            records.append((number % len(BUSY), poison(now)[who][0]))
        elif kind == "again":
            if records:
                records.append(records[who % len(records)])
        else:
            user = first_user + who
            name = f"{first_user}-{number}"
            if kind == "evolved":
                record = list(evolved(user, number, now).values())[much]
            else:
                when = now - much if kind == "click" else watermark - much
                record = click(user, number, when, event_id=name)
            records.append((BUSY[user % len(BUSY)], record))
    return records, now


@settings(
    max_examples=100 if os.environ.get("SPARC_LONG_TESTS") else 8,
    deadline=None,
    database=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)
@given(log=logs)
def test_random_logs_come_out_as_the_oracle_says(played: Played, log: list) -> None:
    records, lasts = made(log, played.watermark)
    played.play(records, lasts)
