"""All between a log and `sequences` killed at random, again and again: nothing lost or doubled.

In CI with a small log and few kills; with SPARC_LONG_TESTS=1 in the environment with 100,000 events
and 25 kills (`-s` shows the outcome):

    SPARC_LONG_TESTS=1 .venv/bin/python -m pytest -s tests/end_to_end/test_streaming_crashes.py
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter, defaultdict
from contextlib import suppress

import pytest
from kafka.errors import KafkaError

from replay import synthetic
from replay.staging import stage
from replay.synthetic import SyntheticConfig
from streaming.errors import StreamingError
from streaming.events import HISTORY_LENGTH, UserSequence
from streaming.job.accounting import Accounts, StreamEnd
from streaming.job.flink_rest import FlinkRest
from tests.local_servers import await_broker
from tests.streaming.job.job_process import Sparc
from tests.streaming.job.live_stream import LiveStream

LONG = bool(os.environ.get("SPARC_LONG_TESTS"))
EVENTS, KILLS, RATE = (100_000, 25, 1000.0) if LONG else (12_000, 6, 400.0)
LONGEST_GAP_SECONDS = 6.0
PATIENCE_SECONDS = 900.0
MADE = SyntheticConfig(events=EVENTS, users=EVENTS // 40, items=EVENTS // 60, days=200)

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(3600 if LONG else 1200)]


def expected_sequences(folder) -> dict[int, list[UserSequence]]:
    """From the log itself, in its order."""
    log = stage(*synthetic.write(MADE, folder / "made"), folder / "expected", 2 * 10**12)
    found: dict[int, list[UserSequence]] = defaultdict(list)
    for batch in log.read_events():
        for event_id, user, item, when, *_ in zip(*batch[1:], strict=True):
            before = found[user][-HISTORY_LENGTH:]
            found[user].append(
                UserSequence(
                    event_id,
                    user,
                    when,
                    len(found[user]) + 1,
                    [s.target for s in before],
                    [s.event_time for s in before],
                    item,
                )
            )
    return found


def test_nothing_is_lost_doubled_or_out_of_order(kafka_broker, flink_cluster, tmp_path):
    name = "crashes"
    stream = LiveStream(kafka_broker, flink_cluster, tmp_path, name, partitions=2)
    sparc = Sparc(
        tmp_path,
        kafka={"bootstrap": kafka_broker.bootstrap, "prefix": f"{name}-", "partitions": 2},
        streaming={
            "name": name,
            "restart_attempts": 1000,
            "restart_delay_ms": 500,
            # What is killed may be away for long, and is not idle.
            "idle_timeout_s": 600.0,
        },
        flink={
            **flink_cluster.section,
            "checkpoints": (tmp_path / "checkpoints").as_uri(),
        },
        replay={"rate": RATE, "synthetic": vars(MADE), "patience_seconds": 600.0},
    )
    rng = random.Random(20)
    began = time.monotonic()
    keeper, replay = sparc.start("stream"), sparc.start("replay")
    victims = {
        "keeper": keeper,
        "replay": replay,
        "TaskManager": flink_cluster.task_manager,
        "JobManager": flink_cluster.job_manager,
        "broker": kafka_broker.process,
    }
    killed: Counter[str] = Counter()

    def bring_back() -> None:
        """What a supervisor does."""
        for part, process in victims.items():
            if not process.running and not (part == "replay" and process.process.returncode == 0):
                process.start()

    try:
        stream.wait(lambda: sparc.status("stream").get("checkpoints", 0) > 0)
        order: list[str] = []
        while killed.total() < KILLS:
            time.sleep(rng.uniform(0, LONGEST_GAP_SECONDS))
            bring_back()
            order = order or rng.sample(sorted(victims), len(victims))
            victim = order.pop()
            if victims[victim].running:
                victims[victim].kill()
                killed[victim] += 1
        flink = FlinkRest(flink_cluster.address, flink_cluster.tls)
        end = None
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            assert time.monotonic() < deadline, (sparc.status("stream"), sparc.status("replay"))
            bring_back()
            time.sleep(0.5)
            if replay.running or replay.process.returncode != 0:
                continue
            with suppress(KafkaError, StreamingError):
                end = end or StreamEnd(kafka_broker.connection, stream.topics, name, flink)
                if end.reached(name):
                    break
        end.close()
        flink.close()

        expected = expected_sequences(tmp_path)
        assert sum(map(len, expected.values())) == EVENTS
        assert stream.accounts() == Accounts(EVENTS, EVENTS, 0, 0, 0)
        found = stream.sequences()
        assert found.keys() == expected.keys()
        for user, sequences in found.items():
            assert sequences == expected[user]
        assert killed.keys() == victims.keys()
        print(f"{EVENTS} events, {killed.total()} kills: {dict(killed)}, ", end="")
        print(f"{time.monotonic() - began:.0f} s; lost 0, extra 0, out of order 0")
    finally:
        replay.kill()
        keeper.kill()
        for service in ("broker", "JobManager", "TaskManager"):  # the next test needs them
            if not victims[service].running:
                victims[service].start()
        await_broker(kafka_broker.bootstrap)
        flink_cluster.wait_until_ready()
        stream.cancel()
