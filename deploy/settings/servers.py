"""Kafka and Flink: where they are, or what of this machine those that we start may take."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Any

from deploy.settings.checking import require_secrets
from streaming.job.flink_tls import FlinkTls
from streaming.kafka_clients import CLIENT_SETTINGS
from streaming.secret import masked
from streaming.security import Security
from streaming.topics import Topics


@dataclass(frozen=True)
class Kafka:
    """How to reach Kafka.

    Attributes:
        bootstrap: `host:port,...` of a running Kafka; empty: a local broker is started.
        heap_mb: Java heap of the local broker in MiB.
        security: TLS and SASL, for every client of the pipeline, the job's among them.
        client: further settings of kafka-python.
        prefix: put before every topic name.
        partitions: of `clicks` and `sequences`, when they are created.
        replication: of every topic, when it is created.
    """

    bootstrap: str = ""
    heap_mb: int = 512
    security: Security = field(default_factory=Security)
    client: dict[str, Any] = field(default_factory=dict, repr=False)
    prefix: str = ""
    partitions: int = 1
    replication: int = 1

    def __post_init__(self) -> None:
        for name in self.client.keys() - CLIENT_SETTINGS:  # it would print them, values and all
            near = difflib.get_close_matches(name, CLIENT_SETTINGS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"[kafka.client] kafka-python has no setting {name!r}{hint}")

    @property
    def client_settings(self) -> dict[str, Any]:
        """For kafka-python.

        Raises:
            SecurityError: if a file of `security` cannot be read.
            SettingsError: if a secret is only known to the pipeline that was started.
        """
        require_secrets(self.client, "kafka.client")
        return {**self.security.kafka_python(), **self.client}

    def topics(self) -> Topics:
        """The topic names."""
        return Topics().prefixed(self.prefix)


@dataclass(frozen=True)
class Flink:
    """How to reach Flink.

    Attributes:
        address: `host:port` of a session cluster's REST API; empty: a local cluster is started.
        security: TLS for that API. The local cluster has certificates of its own.
        checkpoints: a directory that the cluster and `sparc stream` can reach, as an absolute path
            or a URI; `file:` and the path as it is, as Flink does not percent-decode. Empty: a
            folder of the data directory.
        slots: task slots of the local cluster; the job takes as many as its parallelism.
        task_manager_heap_mb: Java heap of the local TaskManager in MiB; it holds the job's state.
        managed_mb: memory for RocksDB in the local TaskManager in MiB; 0 with state on the heap.
    """

    address: str = ""
    security: FlinkTls = FlinkTls()
    checkpoints: str = ""
    slots: int = 2
    task_manager_heap_mb: int = 640
    managed_mb: int = 0

    def __post_init__(self) -> None:
        if "://" in self.address:
            raise ValueError(
                f"[flink] address is {self.address!r}: give host:port; [flink.security] ca_file "
                "makes it https"
            )
        if masked(self.checkpoints) != self.checkpoints:
            raise ValueError(
                "[flink] checkpoints holds a password, and Flink's page shows it; give it to the "
                "cluster in Flink's own configuration (such as s3.secret-key)"
            )


@dataclass(frozen=True)
class Ports:
    """Ports on 127.0.0.1; 0 means: the first free one of the range.

    Attributes:
        first: start of the range that is searched.
        count: length of that range.
        kafka: the broker's client listener.
        kafka_controller: the broker's KRaft listener.
        flink_rest: JobManager's REST API and web page.
        flink_rpc: JobManager's RPC.
        flink_blob: JobManager's blob server.
        flink_task_manager: TaskManager's RPC.
        flink_data: TaskManager's data exchange.
        mlflow: MLflow's API and web page.
        service: the retrieval service.
    """

    first: int = 29_090
    count: int = 200
    kafka: int = 0
    kafka_controller: int = 0
    flink_rest: int = 0
    flink_rpc: int = 0
    flink_blob: int = 0
    flink_task_manager: int = 0
    flink_data: int = 0
    mlflow: int = 0
    service: int = 0
