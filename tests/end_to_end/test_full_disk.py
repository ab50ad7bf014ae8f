"""The pipeline's parts on a real file system that is full, with a real broker and MLflow."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient

from deploy.local import mlflow_server
from deploy.monitoring import full_disk
from streaming.durable_files import PARTIAL
from streaming.events import UserSequence
from streaming.items import Item
from streaming.topics import Topics, create_topics
from tests.deploy.snapshot_maker import ITEMS, Shelf, clicks, items, make_snapshots
from tests.streaming.job.job_process import Process, Sparc

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(600)]


def eventually(what: Callable[[], Any], seconds: float = 90.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (seen := what()):
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.1)
    return seen


def produce(bootstrap: str, topic: str, sequences: Sequence[UserSequence | Item]) -> None:
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    for sequence in sequences:
        producer.send(topic, key=sequence.key(), value=sequence.to_bytes())
    producer.flush()
    producer.close()


def make_topics(bootstrap: str, prefix: str) -> Topics:
    topics = Topics().prefixed(prefix)
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    create_topics(admin, topics, partitions=1)
    admin.close()
    return topics


def test_the_service_answers_and_starts_while_its_disk_is_full(
    kafka_broker, small_disk, free_ports, tmp_path: Path
) -> None:
    disk = small_disk(64)
    (tmp_path / "made").mkdir()
    make_snapshots(tmp_path / "made", 2)
    shelf = Shelf(disk.path, tmp_path / "made")
    shelf.publish(1)
    topics = make_topics(kafka_broker.bootstrap, "full-disk-service-")
    (port,) = free_ports(1)
    sparc = Sparc(
        tmp_path,
        kafka={"bootstrap": kafka_broker.bootstrap, "prefix": "full-disk-service-"},
        ports={"service": port},
        data_dir=disk.path,
    )
    log = clicks()
    user = log[0].user_id
    late = [s for s in log if s.user_id == user][-1:]
    produce(kafka_broker.bootstrap, topics.sequences, [s for s in log if s not in late])

    def retrieve() -> dict[str, Any] | None:
        url = f"http://127.0.0.1:{port}/v1/retrieve"
        try:
            answer = httpx.post(url, json={"user_id": user, "k": 5}, timeout=10)
        except httpx.HTTPError:
            return None
        return answer.json() if answer.status_code == 200 else None

    service = sparc.start("serve")
    try:
        eventually(lambda: (retrieve() or {}).get("known_user"))
        eventually(lambda: sparc.status("serve").get("history_lag_records") == 0)
        disk.fill()

        def stuck() -> bool:  # the last page of a file has room for some
            produce(kafka_broker.bootstrap, topics.sequences, late)
            return "the disk is full" in sparc.status("serve").get("problem", "")

        eventually(stuck)
        time.sleep(3)
        assert service.running, service.said()[-2000:]
        assert retrieve()["known_user"]
        said = service.said().count("the disk is full")

        service.kill()
        service.start()
        eventually(lambda: (retrieve() or {}).get("known_user"))
        time.sleep(3)
        assert service.running, service.said()[-2000:]
        assert retrieve()["version"] == 1
        # the first version to be decided about, and the histories; each once
        assert service.said().count("the disk is full") - said <= 2

        disk.clear()
        eventually(lambda: sparc.status("serve").get("problem") == "")
        eventually(lambda: sparc.status("serve").get("history_lag_records") == 0)
        eventually((disk.path / "served.json").is_file)
        shelf.publish(2)
        eventually(lambda: sparc.status("serve").get("decided_version") in (1, 2))
        assert service.stop() == 0, service.said()[-2000:]
        assert not list(disk.path.rglob(f"{PARTIAL}*"))
    finally:
        service.kill()


@pytest.mark.slow
def test_trainer_indexer_and_registrar_wait_for_room_and_go_on(
    kafka_broker, small_disk, free_ports, tmp_path: Path
) -> None:
    disk = small_disk(400)
    prefix = "full-disk-parts-"
    topics = make_topics(kafka_broker.bootstrap, prefix)
    (port,) = free_ports(1)
    sparc = Sparc(
        tmp_path,
        kafka={"bootstrap": kafka_broker.bootstrap, "prefix": prefix},
        trainer={"batch_size": 24, "publish": {"events": 24}},
        registry={"tracking_uri": f"http://127.0.0.1:{port}"},
        data_dir=disk.path,
    )
    produce(kafka_broker.bootstrap, topics.items, items())
    log = clicks()
    produce(kafka_broker.bootstrap, topics.sequences, log[:60])
    server = mlflow_server.MlflowServerConfig(port=port)
    command = mlflow_server.mlflow_server_command(server, disk.path)
    names = ("train", "index", "register")
    parts = [Process(command, tmp_path / "mlflow.log"), *(sparc.start(name) for name in names)]

    def troubled(name: str) -> bool:
        return full_disk.says_full(sparc.status(name).get("problem", ""))

    try:
        eventually(lambda: sparc.status("train").get("trained_events") == 60, 180)
        eventually(lambda: sparc.status("register").get("last_registered", 0) > 0, 180)
        eventually(lambda: sparc.status("register").get("caught_up"), 180)
        published = sparc.status("index")["snapshots_published"]
        disk.fill()
        produce(kafka_broker.bootstrap, topics.items, items(ITEMS + 5)[ITEMS:])
        produce(kafka_broker.bootstrap, topics.sequences, log[60:])
        eventually(lambda: troubled("train"), 180)
        eventually(lambda: troubled("index"), 180)
        time.sleep(10)
        for part, name in zip(parts, ("mlflow", *names), strict=True):
            assert part.running, (name, part.said()[-2000:])
        disk.clear()
        eventually(lambda: sparc.status("train").get("trained_events") == len(log), 180)
        eventually(lambda: sparc.status("index").get("snapshots_published", 0) > published, 180)
        eventually(lambda: sparc.status("index").get("indexed_items") == ITEMS + 5, 180)
        for name in names:
            eventually(lambda name=name: sparc.status(name).get("caught_up"), 180)
            assert not sparc.status(name).get("problem")
        for part, name in zip(parts[1:], names, strict=True):
            assert part.stop() == 0, (name, part.said()[-2000:])
            assert part.said().count("the disk is full") <= 2, part.said()[-3000:]
        assert not list(disk.path.rglob(f"{PARTIAL}*"))
    finally:
        for part in parts:
            part.kill()
