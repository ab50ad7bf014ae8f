"""What is on record of a Kafka; against a real one: tests/end_to_end/test_recreated_topics.py."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from kafka.errors import KafkaError

from deploy.local import launch
from deploy.local.kafka_broker import KafkaBrokerConfig, KafkaBrokerError, cluster_id
from deploy.settings import Settings
from streaming.kafka_clients import KafkaConnection
from streaming.topic_identity import (
    ForeignKafkaError,
    TopicIdentity,
    claim_cluster,
    recorded_cluster,
)


def test_the_first_cluster_is_recorded_and_another_one_refused(tmp_path: Path) -> None:
    assert recorded_cluster(tmp_path) is None
    claim_cluster(tmp_path, "ours", "the Kafka at a:1")
    claim_cluster(tmp_path, "ours", "the Kafka at a:1")
    with pytest.raises(ForeignKafkaError) as refused:
        claim_cluster(tmp_path, "theirs", "the Kafka at b:2")
    for word in ("another Kafka cluster", "ours", "theirs", "b:2", "--fresh", str(tmp_path)):
        assert word in str(refused.value)
    assert recorded_cluster(tmp_path) == "ours"
    assert [p.name for p in tmp_path.iterdir()] == ["kafka.json"]


def test_of_parts_that_start_at_once_the_first_ones_word_counts(tmp_path: Path) -> None:
    refused: list[str] = []

    def claim(cluster: str) -> None:
        try:
            claim_cluster(tmp_path, cluster, "there")
        except ForeignKafkaError:
            refused.append(cluster)

    threads = [threading.Thread(target=claim, args=(f"c{n % 2}",)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    known = recorded_cluster(tmp_path)
    assert known in ("c0", "c1")
    assert len(refused) == 8
    assert known not in refused


def test_a_damaged_record_is_no_reason_to_take_another(tmp_path: Path) -> None:
    (tmp_path / "kafka.json").write_text("{")
    with pytest.raises(ForeignKafkaError, match="kafka.json: unreadable.*--fresh"):
        claim_cluster(tmp_path, "any", "there")
    assert (tmp_path / "kafka.json").read_text() == "{"


def test_without_kafka_nothing_is_recorded(tmp_path: Path, free_ports) -> None:
    (port,) = free_ports(1)
    away = KafkaConnection(f"127.0.0.1:{port}", {"bootstrap_timeout_ms": 100})
    identity = TopicIdentity(tmp_path, "trainer", away, {"items": "items"})
    with pytest.raises(KafkaError):
        identity.check()
    identity.check(idle=True)  # it was looked at a moment ago
    identity.close()
    assert not list(tmp_path.iterdir())


def test_a_broker_that_lost_its_storage_is_not_formatted_under_a_state(tmp_path: Path) -> None:
    claim_cluster(tmp_path, "ours", "there")
    with pytest.raises(launch.UpError, match="kafka is gone.*--fresh"):
        launch.programs(Settings(data_dir=tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["kafka.json"]


def test_the_storage_says_its_cluster(tmp_path: Path) -> None:
    config = KafkaBrokerConfig(tmp_path)
    assert cluster_id(config) is None
    meta = tmp_path / "storage" / "meta.properties"
    meta.parent.mkdir()
    meta.write_text("#\nnode.id=1\ncluster.id=abc-_1\nversion=1\n")
    assert cluster_id(config) == "abc-_1"
    meta.write_text("version=1\n")
    with pytest.raises(KafkaBrokerError, match="names no cluster.id"):
        cluster_id(config)
