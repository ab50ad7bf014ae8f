"""The files and command lines of the local Kafka and Flink: no path of a directory gets in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.local import flink_cluster, kafka_broker
from deploy.local.java import JavaError, class_path
from deploy.local.kafka_broker import KafkaBrokerError
from tests.conftest import ODD_NAME


def test_neither_settings_nor_commands_hold_the_data_directory(
    tmp_path: Path, jars: Path, free_ports: Callable[[int], list[int]]
) -> None:
    folder = tmp_path / ODD_NAME
    cluster = flink_cluster.FlinkClusterConfig(
        folder,
        "127.0.0.1",
        *free_ports(5),  # type: ignore[arg-type]
    )
    flink_cluster.prepare(cluster)
    broker = kafka_broker.KafkaBrokerConfig(folder, jars=jars / "kafka")
    said = [
        kafka_broker.server_properties(broker),
        *kafka_broker.command(broker),
        *flink_cluster.job_manager_command(),
        *flink_cluster.task_manager_command(cluster),
        *(path.read_text(encoding="utf-8") for path in cluster.conf_dir.iterdir()),
    ]
    assert not [text for text in said if "my shop" in text]


def test_records_that_an_earlier_version_kept_elsewhere_are_not_passed_over(
    tmp_path: Path, free_ports: Callable[[int], list[int]]
) -> None:
    port, controller_port = free_ports(2)
    config = kafka_broker.KafkaBrokerConfig(
        tmp_path / "é" / "kafka", "127.0.0.1", port, controller_port
    )
    astray = tmp_path / "Ã©" / "kafka" / "storage"
    astray.mkdir(parents=True)
    (astray / "meta.properties").touch()
    with pytest.raises(KafkaBrokerError, match=f"mv '{astray}' '{config.data_dir}/storage'"):
        kafka_broker.prepare(config)


def test_a_jar_that_a_class_path_cannot_hold_is_named() -> None:
    assert class_path([Path("/a b/c.jar"), Path("/d.jar")]) == "/a b/c.jar:/d.jar"
    with pytest.raises(JavaError, match=r"/a:b/c.jar.*jars_dir"):
        class_path([Path("/a:b/c.jar")])
