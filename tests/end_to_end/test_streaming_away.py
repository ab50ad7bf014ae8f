"""What the job needs is away for longer than restarts take: it waits, at default settings."""

from __future__ import annotations

import time
from contextlib import suppress

import psutil
import pytest
from kafka.errors import KafkaError

from replay.synthetic import SyntheticConfig
from streaming.errors import StreamingError
from streaming.job.accounting import Accounts, StreamEnd
from streaming.job.flink_rest import FlinkRest
from tests.local_servers import await_broker
from tests.streaming.job.job_process import Sparc
from tests.streaming.job.live_stream import LiveStream

pytestmark = [pytest.mark.end_to_end, pytest.mark.slow, pytest.mark.timeout(900)]

EVENTS = 12_000
MADE = SyntheticConfig(events=EVENTS, users=EVENTS // 40, items=EVENTS // 60, days=200)
AWAY_SECONDS = 75.0
STARTED_SECONDS = 130.0
"""Before that a cluster waits for slots that are not there; after it requests fail at once."""


@pytest.mark.parametrize("victim", ["task_manager", "broker"])
def test_what_is_away_for_a_minute_ends_nothing(kafka_broker, flink_cluster, tmp_path, victim):
    name = f"away-{victim.replace('_', '-')}"
    stream = LiveStream(kafka_broker, flink_cluster, tmp_path, name)
    sparc = Sparc(
        tmp_path,
        kafka={"bootstrap": kafka_broker.bootstrap, "prefix": f"{name}-", "partitions": 1},
        streaming={"name": name},
        flink={
            **flink_cluster.section,
            "checkpoints": (tmp_path / "checkpoints").as_uri(),
        },
        replay={"rate": 60.0, "synthetic": vars(MADE)},
    )
    process = kafka_broker.process if victim == "broker" else flink_cluster.task_manager
    keeper, replay = sparc.start("stream"), sparc.start("replay")
    try:
        stream.wait(lambda: sparc.status("stream").get("checkpoints", 0) > 2)
        job_manager = psutil.Process(flink_cluster.job_manager.process.pid)
        time.sleep(max(0.0, job_manager.create_time() + STARTED_SECONDS - time.time()))
        assert replay.running
        process.kill()
        back = time.monotonic() + AWAY_SECONDS
        while time.monotonic() < back:
            assert keeper.running, keeper.said()[-2000:]
            time.sleep(0.5)
        if victim == "task_manager":
            assert sparc.status("stream")["state"] == "waiting for a TaskManager"
            assert "NoResourceAvailable" in sparc.status("stream")["problem"]
        process.start()
        stream.wait(lambda: not replay.running)
        assert replay.process.returncode == 0, replay.said()[-2000:]
        flink = FlinkRest(flink_cluster.address, flink_cluster.tls)
        end = StreamEnd(kafka_broker.connection, stream.topics, name, flink)

        def reached() -> bool:
            assert keeper.running, keeper.said()[-2000:]
            with suppress(KafkaError, StreamingError):
                return end.reached(name)
            return False

        stream.wait(reached)
        end.close()
        flink.close()
        assert stream.accounts() == Accounts(EVENTS, EVENTS, 0, 0, 0)
    finally:
        replay.kill()
        keeper.kill()
        if not process.running:
            process.start()
        await_broker(kafka_broker.bootstrap)
        flink_cluster.wait_until_ready()
        stream.cancel()
