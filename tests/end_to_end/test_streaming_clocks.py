"""A live source with clocks that are wrong: whoever is ahead makes nobody else late."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from streaming.job.accounting import Aside
from tests.streaming.job.live_stream import LiveStream
from tests.streaming.made_clicks import DELAY, click, heartbeat
from tests.streaming.oracle import Record

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(600)]

HOUR = 3_600_000
MINUTE = 60_000


@pytest.fixture(scope="module")
def stream(kafka_broker, flink_cluster, tmp_path_factory) -> Iterator[LiveStream]:
    folder = tmp_path_factory.mktemp("clocks")
    stream = LiveStream(kafka_broker, flink_cluster, folder, "clocks")
    stream.start()
    yield stream
    stream.stop()


def live(user: int, item: int, event_time: int, recorded: int) -> Record:
    return replace(click(user, item, event_time), timestamp=recorded)


def reasons(stream: LiveStream) -> list[str]:
    letters = stream.read(stream.topics.clicks_dlq)
    return [dict(record.headers)["reason"].decode() for record in letters]


def test_a_click_that_is_ahead_of_its_arrival_makes_nobody_late(stream):
    now = time.time_ns() // 1_000_000
    ahead = [
        live(1, 1, now + 20 * HOUR, now),
        # its record's timestamp is wrong as well: by up to an hour the broker takes it
        live(1, 2, now + HOUR // 2, now + HOUR // 2),
        live(1, 3, now // 1000, now),
        live(1, 4, now + 2 * MINUTE, now),  # a clock that is a little fast: taken, when it is time
    ]
    others = [live(user, 9, now + user, now + user) for user in range(2, 102)]
    log = [live(102, 9, now - 100, now), *ahead, *others, heartbeat(now + 4 * MINUTE)]
    log[-1] = replace(log[-1], timestamp=now + 200)
    stream.send(log)
    stream.wait_until_drained()
    assert reasons(stream) == [
        "event_time: too far ahead of the record's timestamp",
        "event_time: too far ahead of the clock",
        "event_time: looks like seconds, milliseconds expected",
    ]
    assert not stream.read(stream.topics.clicks_late)
    taken = stream.sequences()
    assert [s.target for s in taken.pop(1)] == [4]
    assert sorted(taken) == list(range(2, 103))
    assert stream.accounts().lost == 0


def test_what_is_put_aside_is_counted_while_it_happens_and_from_the_beginning_after_a_restart(
    stream,
):
    stream.send(
        [live(200, 1, 10**12, 10**12), *(Record(b"1", b"no click", 10**12) for _ in range(3))]
        + [heartbeat(10**12 + DELAY)]
    )
    stream.wait_until_drained()
    for _ in range(2):
        aside = Aside(stream.connection, stream.topics)
        deadline = time.monotonic() + 20
        while (counts := aside.counts())["late"] is None:
            assert time.monotonic() < deadline
        aside.close()
        assert counts == {"late": 1, "dead_letters": 6}
