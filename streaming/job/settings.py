"""The job `clicks` -> `sequences`, `clicks.late`, `clicks.dlq`: its settings.

The pipeline of operators, all of them Java (`streaming/java`); Python configures and submits them:

    clicks           one parse per record: a click, a heartbeat, or a dead letter with the reason;
                     each partition has its own watermark, which no dead letter can move
    user_sequences   per user: duplicates out, late clicks aside, the others in the order of event
                     time with position and history (keyed state and timers)
    topics           one transactional Kafka sink for the three topics

A click goes out when the watermark has passed its event time. Clicks of one user with equal event
times keep the order of their arrival: they come from one partition, as the key is the user.

What is known of a user (position, history, the event ids of the last clicks) does not expire
unless `user_ttl` is set: Flink's time to live is in time of the wall clock, and positions are to
be gapless however long a user stays away.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from streaming.job.flink_tls import FlinkTls
from streaming.topics import Topics

DELIVERIES = ("exactly-once", "at-least-once")
STATE_BACKENDS = ("hashmap", "rocksdb")


@dataclass(frozen=True)
class JobConfig:
    """The job and how it runs.

    Attributes:
        name: of the job; two jobs of one cluster need two names.
        out_of_orderness_ms: an event so far behind the newest of its partition, or further, is
            late. With 1 a partition has to be in order.
        idle_timeout_s: a partition without records for so long holds the watermark back no more.
            The replay's heartbeats keep its partitions from falling idle.
        discovery_interval_s: how often a running job looks for partitions that were added.
        max_ahead_ms: an event time further ahead of its record's own timestamp, or of the clock of
            the cluster, is a dead letter. One that is less far ahead moves the watermark no further
            than its arrival.
        max_value_bytes: a larger value is a dead letter.
        dedup_horizon: how many event ids of each user, the last ones, are known for deduplication.
        user_ttl: a user without clicks for so long is forgotten, as a Flink duration of wall-clock
            time ("90 d"): the next click has position 1. Empty: never.
        delivery: "exactly-once" (transactions) or "at-least-once".
        checkpoint_interval_ms: between checkpoints; with transactions also how long a sequence
            waits until a reader of committed records sees it.
        parallelism: of every operator.
        max_parallelism: the largest parallelism that the state can be spread over. It is part of
            the state: with another one, the job goes on from none of its checkpoints.
        state_backend: "hashmap" (heap) or "rocksdb".
        restart_attempts: so many failures within five minutes are restarted before the job is given
            up. What only waits (for a TaskManager, for Kafka, for room on a disk) is none of them
            and is restarted for ever, see `streaming.job.outage`.
        restart_delay_ms: before the first restart; before each further one a bit more, up to ten
            times as much, until the job has run for a minute.
        savepoint_timeout_s: how long a savepoint may take when the keeper is told to stop; after
            that the job is cancelled, and goes on from its last checkpoint.
        properties: further settings of the Kafka clients, in Kafka's own names (security, ...).
    """

    name: str = "sparc-sequences"
    out_of_orderness_ms: int = 5000
    idle_timeout_s: float = 30.0
    discovery_interval_s: float = 10.0
    max_ahead_ms: int = 300_000
    max_value_bytes: int = 1 << 20
    dedup_horizon: int = 1000
    user_ttl: str = ""
    delivery: str = "exactly-once"
    checkpoint_interval_ms: int = 1000
    parallelism: int = 1
    max_parallelism: int = 128
    state_backend: str = "hashmap"
    restart_attempts: int = 10
    restart_delay_ms: int = 1000
    savepoint_timeout_s: float = 8.0
    properties: dict[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for setting, good, rule in (
            ("delivery", self.delivery in DELIVERIES, f"use one of {DELIVERIES}"),
            ("state_backend", self.state_backend in STATE_BACKENDS, f"use one of {STATE_BACKENDS}"),
            (
                "parallelism",
                1 <= self.parallelism <= self.max_parallelism,
                f"from 1 to max_parallelism, {self.max_parallelism}",
            ),
            ("max_parallelism", 1 <= self.max_parallelism <= 32_768, "from 1 to 32768"),
            ("discovery_interval_s", self.discovery_interval_s > 0, "above 0"),
            ("checkpoint_interval_ms", self.checkpoint_interval_ms >= 50, "at least 50"),
            ("dedup_horizon", self.dedup_horizon >= 1, "at least 1"),
            ("out_of_orderness_ms", self.out_of_orderness_ms >= 1, "at least 1"),
            ("restart_attempts", self.restart_attempts >= 0, "not negative"),
            ("restart_delay_ms", self.restart_delay_ms >= 1, "at least 1"),
            ("savepoint_timeout_s", self.savepoint_timeout_s > 0, "above 0"),
            ("max_ahead_ms", self.max_ahead_ms >= 0, "not negative"),
            ("max_value_bytes", 1 <= self.max_value_bytes < 1 << 31, "from 1 to 2 GiB"),
            ("idle_timeout_s", self.idle_timeout_s > 0, "above 0"),
        ):
            if not good:
                raise ValueError(f"streaming.{setting} is {getattr(self, setting)!r}: {rule}")


@dataclass(frozen=True)
class JobEnvironment:
    """Where the job runs.

    Attributes:
        bootstrap: `host:port,...` of Kafka.
        flink: `host:port` of the cluster's REST API.
        jars: sent along with the job: the Kafka connector and the functions.
        checkpoints: directory that the cluster can write to.
        topics: topic names.
        restore: path of the checkpoint or savepoint to go on from; empty for none.
        job_id: 32 hexadecimal digits; of two submissions with the same one Flink takes the first.
            Empty for any.
        client: settings of Kafka's Java clients, such as those of `Security.java`.
        tls: how the cluster's REST API is spoken to.
    """

    bootstrap: str
    flink: str
    jars: tuple[str, ...]
    checkpoints: str
    topics: Topics = Topics()
    restore: str = ""
    job_id: str = ""
    client: dict[str, str] = field(default_factory=dict, repr=False)
    tls: FlinkTls = FlinkTls()


CONSUMER = {
    "max.poll.records": "5000",
    # What came over HTTP is written in transactions, and what was given up is no click.
    "isolation.level": "read_committed",
}
PRODUCER = {
    "max.request.size": str(8 << 20),
    # A sequence is a kilobyte: the defaults of 16 KiB without waiting mean a request for a dozen.
    "batch.size": str(256 << 10),
    "linger.ms": "10",
}
"""Ours for Kafka's clients; those of the configuration come after."""


@dataclass(frozen=True)
class JavaSettings:
    """What `SequencesJob.java` is called with: settings of the job and of its Kafka clients."""

    job: dict[str, str]
    consumer: dict[str, str]
    producer: dict[str, str]


def java_settings(config: JobConfig, environment: JobEnvironment) -> JavaSettings:
    """The settings of the operators, all of them as text."""
    topics = environment.topics
    own = environment.client | config.properties
    consumer = CONSUMER | {
        "partition.discovery.interval.ms": str(int(config.discovery_interval_s * 1000))
    }
    producer = dict(PRODUCER)
    if config.delivery == "exactly-once":
        producer["transaction.timeout.ms"] = str(3600 * 1000)
    job = {
        "name": config.name,
        "bootstrap": environment.bootstrap,
        "clicks": topics.clicks,
        "sequences": topics.sequences,
        "late": topics.clicks_late,
        "dead_letters": topics.clicks_dlq,
        "out_of_orderness_ms": str(config.out_of_orderness_ms),
        "idle_timeout_ms": str(int(config.idle_timeout_s * 1000)),
        "max_ahead_ms": str(config.max_ahead_ms),
        "max_value_bytes": str(config.max_value_bytes),
        "remembered": str(config.dedup_horizon),
        "user_ttl": config.user_ttl,
        "delivery": config.delivery,
    }
    return JavaSettings(job, consumer | own, producer | own)


def flink_settings(config: JobConfig, environment: JobEnvironment) -> dict[str, str]:
    """The settings of the job for Flink."""
    host, _, port = environment.flink.rpartition(":")
    jars = ";".join(Path(jar).resolve().as_uri() for jar in environment.jars)
    reset_ms = max(60_000, 10 * config.restart_delay_ms)
    settings = {
        "execution.target": "remote",
        "execution.attached": "false",
        "rest.address": host,
        "rest.port": port,
        "pipeline.name": config.name,
        "pipeline.jars": jars,
        "pipeline.object-reuse": "true",
        "parallelism.default": str(config.parallelism),
        "pipeline.max-parallelism": str(config.max_parallelism),
        # How often a watermark goes out: few enough for the job to be busy with clicks.
        "pipeline.auto-watermark-interval": "20 ms",
        "execution.checkpointing.interval": f"{config.checkpoint_interval_ms} ms",
        # A snapshot of much state must leave time for the work itself.
        "execution.checkpointing.min-pause": f"{config.checkpoint_interval_ms // 2} ms",
        "execution.checkpointing.dir": environment.checkpoints,
        "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
        "execution.checkpointing.num-retained": "3",
        "execution.checkpointing.timeout": "5 min",
        "execution.checkpointing.tolerable-failed-checkpoints": "10",
        "state.backend.type": config.state_backend,
        # Clicks that wait are few whatever the state.
        "state.backend.rocksdb.timer-service.factory": "HEAP",
        # Without an end: Flink cannot tell a cause that stays from a slot that is away. The
        # supervisor can, and gives the job up.
        "restart-strategy.type": "exponential-delay",
        "restart-strategy.exponential-delay.initial-backoff": f"{config.restart_delay_ms} ms",
        "restart-strategy.exponential-delay.max-backoff": f"{10 * config.restart_delay_ms} ms",
        "restart-strategy.exponential-delay.backoff-multiplier": "1.2",
        "restart-strategy.exponential-delay.reset-backoff-threshold": f"{reset_ms} ms",
        "python.executable": sys.executable,
        "python.client.executable": sys.executable,
    }
    if environment.restore:
        settings["execution.state-recovery.path"] = environment.restore
        settings["execution.state-recovery.claim-mode"] = "NO_CLAIM"
    if environment.job_id:
        settings["$internal.pipeline.job-id"] = environment.job_id
    return settings


def to_json(config: JobConfig, environment: JobEnvironment) -> str:
    """What `python -m streaming.job.submission` reads."""
    return json.dumps({"config": asdict(config), "environment": asdict(environment)}, default=str)


def from_json(text: str) -> tuple[JobConfig, JobEnvironment]:
    """The inverse of `to_json`."""
    body = json.loads(text)
    environment = body["environment"]
    files = {name: path and Path(path) for name, path in environment["tls"].items()}
    return JobConfig(**body["config"]), replace(
        JobEnvironment(**environment),
        topics=Topics(**environment["topics"]),
        jars=tuple(environment["jars"]),
        tls=FlinkTls(**files),
    )
