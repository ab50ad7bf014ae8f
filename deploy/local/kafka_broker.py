"""One Kafka broker on this machine: KRaft, broker and controller in one process, no ZooKeeper.

It runs from the jars of `deploy/pom.xml`. The settings are those of a single node that loses
nothing it acknowledged to a killed process: replication factor 1 for the internal topics, no
topic that appears by accident, no record deleted for its age (the records of a replayed log are
years old).

It runs in its data directory, and every path in its files is relative to that: Kafka takes a comma
in a path for two paths, a properties file is no UTF-8, and log4j has its own use for `%` and `${`.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from deploy.local.java import JARS, class_path, empty_temporary, find_jars, find_java

if TYPE_CHECKING:
    from deploy.settings import Settings

LARGEST_RECORD = 8 * 1024 * 1024
"""Bytes; a record of several megabytes must reach the dead-letter topic, headers included."""

STORAGE = "storage"
TMP = "tmp"
PROPERTIES = "server.properties"
LOG4J_PROPERTIES = "log4j2.properties"
LOG = "broker.log"
LOG4J = f"""\
status = warn
rootLogger.level = info
rootLogger.appenderRef.file.ref = File
appender.file.type = RollingFile
appender.file.name = File
appender.file.fileName = {LOG}
appender.file.filePattern = {LOG}.%i
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d{{ISO8601}} %p %m (%c)%n
appender.file.policies.type = Policies
appender.file.policies.size.type = SizeBasedTriggeringPolicy
appender.file.policies.size.size = 16MB
appender.file.strategy.type = DefaultRolloverStrategy
appender.file.strategy.max = 3
"""


class KafkaBrokerError(RuntimeError):
    """The broker cannot be prepared or does not answer; the message says what to do."""


@dataclass(frozen=True)
class KafkaBrokerConfig:
    """Where the broker lives and how much it may take.

    Attributes:
        data_dir: storage, settings and log of the broker.
        host: address it listens on, and that clients are told.
        port: the clients' port.
        controller_port: the KRaft quorum's port (the broker talks to itself).
        heap_mb: Java heap in MiB.
        jars: folder with the jars of `deploy/pom.xml` for Kafka.
        properties: settings of the broker that go before those made here.
    """

    data_dir: Path
    host: str = "127.0.0.1"
    port: int = 9092
    controller_port: int = 9093
    heap_mb: int = 512
    jars: Path = field(default=JARS / "kafka")
    properties: Mapping[str, str] = field(default_factory=dict)

    @property
    def bootstrap(self) -> str:
        """`host:port` for clients."""
        return f"{self.host}:{self.port}"

    @property
    def log_file(self) -> Path:
        """What the broker logs."""
        return self.data_dir / LOG


def broker_of(settings: Settings) -> KafkaBrokerConfig:
    """The broker that a pipeline starts."""
    return KafkaBrokerConfig(
        data_dir=settings.data_dir / "kafka",
        port=settings.ports.kafka,
        controller_port=settings.ports.kafka_controller,
        heap_mb=settings.kafka.heap_mb,
        jars=settings.jars_dir / "kafka",
    )


def server_properties(config: KafkaBrokerConfig) -> str:
    """The broker's settings as a properties file."""
    settings = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@{config.host}:{config.controller_port}",
        "listeners": f"PLAINTEXT://{config.bootstrap},"
        f"CONTROLLER://{config.host}:{config.controller_port}",
        "advertised.listeners": f"PLAINTEXT://{config.bootstrap}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": STORAGE,
        "auto.create.topics.enable": "false",
        "log.retention.ms": -1,
        "log.retention.check.interval.ms": 60_000,
        "log.segment.bytes": 256 * 1024 * 1024,
        "message.max.bytes": LARGEST_RECORD,
        "replica.fetch.max.bytes": LARGEST_RECORD,
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 4,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 4,
        # A job that is down for hours still finds its transactions and commits them.
        "transaction.max.timeout.ms": 24 * 3600 * 1000,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "group.initial.rebalance.delay.ms": 0,
        # Bounds heap: the cleaner's dedupe buffer is 128 MiB by default.
        "log.cleaner.dedupe.buffer.size": 16 * 1024 * 1024,
        "num.network.threads": 2,
        "num.io.threads": 4,
        "controlled.shutdown.enable": "false",
        # A killed broker is let in again only when its old session has ended (9 s by default).
        "broker.session.timeout.ms": 3000,
        "broker.heartbeat.interval.ms": 500,
    }
    effective = {**settings, **config.properties}
    return "".join(f"{name}={value}\n" for name, value in effective.items())


def _java(config: KafkaBrokerConfig, *options: str) -> list[str]:
    jars = find_jars(config.jars, "kafka_2.13-*.jar")
    return [
        str(find_java()),
        *options,
        f"-Dlog4j2.configurationFile={LOG4J_PROPERTIES}",
        # The codecs unpack their libraries there; a killed broker cannot remove them.
        f"-Djava.io.tmpdir={TMP}",
        "-cp",
        class_path(jars),
    ]


def prepare(config: KafkaBrokerConfig) -> None:
    """Write the settings and, the first time, format the storage, with a cluster id of its own.

    Idempotent: a storage that is formatted keeps its id.

    Raises:
        JavaError: no Java 17, or jars missing.
        KafkaBrokerError: if the storage cannot be formatted, or lies elsewhere.
    """
    config.data_dir.mkdir(parents=True, exist_ok=True)
    empty_temporary(config.data_dir / TMP)
    (config.data_dir / PROPERTIES).write_text(server_properties(config), encoding="utf-8")
    (config.data_dir / LOG4J_PROPERTIES).write_text(LOG4J, encoding="utf-8")
    storage = config.data_dir / STORAGE
    if (storage / "meta.properties").exists():
        return
    _refuse_storage_astray(storage)
    tool = [*_java(config, "-Xmx128m", "-XX:+UseSerialGC"), "kafka.tools.StorageTool"]
    result = subprocess.run(  # noqa: S603
        [*tool, "format", "--ignore-formatted", "-t", _new_cluster_id(), "-c", PROPERTIES],
        cwd=config.data_dir,
        capture_output=True,
        text=True,
    )
    if result.returncode:
        said = (result.stderr.strip() or result.stdout.strip()).splitlines() or ["no output"]
        raise KafkaBrokerError(
            f"cannot format the Kafka storage in {config.data_dir}: {said[-1]}; check that the "
            "disk has room and that the directory is no other cluster's"
        )


def cluster_id(config: KafkaBrokerConfig) -> str | None:
    """The id that the storage was formatted with; None before that.

    Raises:
        KafkaBrokerError: if the storage does not say.
    """
    path = config.data_dir / STORAGE / "meta.properties"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KafkaBrokerError(f"{path}: cannot be read ({error}); make it readable") from error
    for line in lines:
        name, _, value = line.partition("=")
        if name.strip() == "cluster.id":
            return value.strip()
    raise KafkaBrokerError(f"{path} names no cluster.id; restore it, or begin anew with --fresh")


def _new_cluster_id() -> str:
    """16 random bytes in base64, as Kafka makes them; tools take a leading dash for an option."""
    return next(
        text
        for text in iter(lambda: urlsafe_b64encode(uuid4().bytes)[:22].decode(), "")
        if not text.startswith("-")
    )


def _refuse_storage_astray(storage: Path) -> None:
    """An earlier version wrote the path in UTF-8 where Kafka reads Latin-1."""
    astray = Path(os.fsencode(storage).decode("latin-1"))
    if astray != storage and (astray / "meta.properties").exists():
        raise KafkaBrokerError(
            f"an earlier version kept Kafka's records in {astray}; move them to where they belong: "
            f"mv {shlex.quote(str(astray))} {shlex.quote(str(storage))}"
        )


def command(config: KafkaBrokerConfig) -> list[str]:
    """The command line of the broker, to be run in its data directory.

    It stays in the foreground and stops on SIGTERM.

    Raises:
        JavaError: no Java 17, or jars missing.
    """
    heap = f"{config.heap_mb}m"
    return [
        *_java(
            config,
            "-Xms128m",
            f"-Xmx{heap}",
            "-XX:+UseG1GC",
            "-XX:MaxGCPauseMillis=50",
            "-XX:+ExitOnOutOfMemoryError",
            "-Djava.awt.headless=true",
            "-Dlog4j.shutdownHookEnabled=false",
        ),
        "kafka.Kafka",
        PROPERTIES,
    ]
