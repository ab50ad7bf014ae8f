"""The trainer's process against a real broker: killed, it ends where an undisturbed one does."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient

from deploy.commands import trainer_group
from model.artifacts import manifest
from streaming.topics import Topics, create_topics
from tests.model.training.recorded_log import make_log

pytestmark = pytest.mark.end_to_end
ROOT = Path(__file__).parents[2]
EVENTS = 600
PREFIX = "trainer-"

_PROCESS = """
import sys, threading
from pathlib import Path
import orjson
from deploy.commands import trainer_group
from model.training import publish_schedule as publication, training_process
from streaming.item_lifetime import ItemsConfig
from model.training.config import TrainerConfig
from streaming.kafka_clients import KafkaConnection
from streaming.topics import Topics
from tests.model.training.test_trainer_learner import SMALL, Exhaustive

config = TrainerConfig(
    batch_size=32, linger_seconds=1.0, checkpoint_events=150, device="cpu",
    publish=publication.PublishConfig(
        events=200, seconds=1e9, idle_seconds=0.5, drift=1e9, pause_seconds=0
    ),
)
stop = threading.Event()

def report(status):
    status = status.to_json()
    sys.stdout.buffer.write(orjson.dumps(status) + b"\\n")
    sys.stdout.flush()
    if status["caught_up"] and status["sequences_read"] >= int(sys.argv[3]):
        stop.set()

def work(place):
    training_process.run(
        config, SMALL, KafkaConnection(sys.argv[1]), Topics().prefixed(sys.argv[4]),
        Path(sys.argv[2]), Exhaustive, stop, report, ItemsConfig(), place,
    )

trainer_group.run(int(sys.argv[5]), "info", lambda: True, work)
"""


@pytest.fixture(scope="module")
def log(kafka_broker: Any) -> Iterator[str]:
    """A log in transactions, some of them aborted, with poison and repeated sequences."""
    sequences, items = make_log(EVENTS, users=60, items=80, partitions=2)
    topics = Topics().prefixed(PREFIX)
    admin = KafkaAdminClient(bootstrap_servers=kafka_broker.bootstrap)
    create_topics(admin, topics, partitions=2)
    admin.close()
    producer = KafkaProducer(bootstrap_servers=kafka_broker.bootstrap, transactional_id=PREFIX)
    producer.init_transactions()
    producer.begin_transaction()
    for item in items:
        producer.send(topics.items, key=item.key(), value=item.to_bytes())
    producer.commit_transaction()
    for partition, of in enumerate(sequences):
        for n in range(0, len(of), 150):
            for aborted in (True, False):
                producer.begin_transaction()
                for s in of[n : n + 150]:
                    wrong = dataclasses.replace(s, target=1) if aborted else s
                    producer.send(topics.sequences, value=wrong.to_bytes(), partition=partition)
                producer.send(topics.sequences, value=b"{broken", partition=partition)
                producer.send(topics.sequences, value=of[n].to_bytes(), partition=partition)
                producer.flush()
                producer.abort_transaction() if aborted else producer.commit_transaction()
    producer.close()
    yield kafka_broker.bootstrap


@contextmanager
def process(
    bootstrap: str, data: Path, prefix: str = PREFIX, workers: int = 1
) -> Iterator[subprocess.Popen[bytes]]:
    transactions = sum(-(-n // 150) for n in (_partition_length(0), _partition_length(1)))
    expected = EVENTS + transactions
    child = subprocess.Popen(
        [sys.executable, "-c", _PROCESS, bootstrap, str(data), str(expected), prefix, str(workers)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    watchdog = threading.Timer(120, child.kill)
    watchdog.start()
    try:
        yield child
    finally:
        watchdog.cancel()
        child.kill()
        child.communicate()


def _partition_length(partition: int) -> int:
    return len(make_log(EVENTS, users=60, items=80, partitions=2)[0][partition])


def follow(
    child: subprocess.Popen[bytes], until: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """The first status of which `until` holds, else the last one."""
    assert child.stdout is not None
    status: dict[str, Any] = {}
    for line in child.stdout:
        if line.startswith(b"{"):
            status = orjson.loads(line)
            if until(status):
                break
    return status


def run_to_end(bootstrap: str, data: Path, workers: int = 1) -> dict[str, Any]:
    with process(bootstrap, data, workers=workers) as child:
        status = follow(child, lambda s: False)
        assert child.wait() == 0, child.stderr and child.stderr.read().decode()
    return status


def handovers(data: Path) -> dict[str, str]:
    return {
        p.name: manifest.verify(p, "handover").digest for p in sorted((data / "handover").iterdir())
    }


def test_a_killed_trainer_ends_with_the_same_handovers(log: str, tmp_path: Path) -> None:
    expected = run_to_end(log, tmp_path / "undisturbed")
    assert expected["trained_events"] == EVENTS
    assert expected["repeated"] == expected["poison"] == expected["sequences_read"] - EVENTS > 0
    assert expected["lag"] == expected["unpublished_events"] == 0
    assert expected["last_handover"]["reason"] == "idle"
    data = tmp_path / "killed"
    for enough in (60, 250):
        with process(log, data) as child:
            status = follow(child, lambda s, enough=enough: s["trained_events"] > enough)  # type: ignore[misc]
            child.kill()
        assert enough < status["trained_events"] < EVENTS
    status = run_to_end(log, data)
    for key in ("trained_events", "repeated", "poison", "micro_batches", "offsets", "prequential"):
        assert status[key] == expected[key], key
    assert handovers(data) == handovers(tmp_path / "undisturbed")


def test_ranks_that_read_a_partition_each_end_alike_whichever_is_killed(
    log: str, tmp_path: Path
) -> None:
    """Without its follower the leader ends, and the other way round."""
    expected = run_to_end(log, tmp_path / "undisturbed", workers=2)
    assert expected["trained_events"] == EVENTS
    assert expected["repeated"] == expected["poison"] == expected["sequences_read"] - EVENTS > 0
    data = tmp_path / "killed"
    for enough, leader in ((60, True), (250, False)):
        with process(log, data, workers=2) as child:
            follow(child, lambda s, enough=enough: s["trained_events"] > enough)  # type: ignore[misc]
            (follower,) = psutil.Process(child.pid).children()
            (child if leader else follower).kill()
            assert child.wait() == (-signal.SIGKILL if leader else trainer_group.LOST)
            psutil.wait_procs([follower], timeout=10)
            assert not follower.is_running()
    status = run_to_end(log, data, workers=2)
    for key in ("trained_events", "repeated", "poison", "micro_batches", "offsets", "prequential"):
        assert status[key] == expected[key], key
    assert handovers(data) == handovers(tmp_path / "undisturbed")


def test_a_second_trainer_on_the_same_data_is_refused(log: str, tmp_path: Path) -> None:
    with process(log, tmp_path, "nobody-writes-this-") as first:
        follow(first, lambda s: s["state"] == "waiting for the source")
        with process(log, tmp_path) as second:
            assert second.stderr is not None
            said = second.stderr.read().decode()
            assert second.wait() == 1
    assert "another trainer works in this data directory" in said
