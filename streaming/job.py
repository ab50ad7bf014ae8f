"""The job `clicks` -> `sequences`, `clicks.late`, `clicks.dlq`, described with the Table API.

The pipeline of operators, all of them Java; Python only describes them:

    source           raw bytes with their metadata; `click_time` gives each partition its watermark,
                     and a record that is no click cannot move it
    read_click       one parse per record: fields, or the reason why it is a dead letter
    user_sequences   per user: duplicates out, late clicks aside, the others in the order of event
                     time with position and history (a process table function with keyed state)
    sink             one transactional Kafka sink for the three topics, raw bytes

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

from streaming.topics import Topics

DELIVERIES = ("exactly-once", "at-least-once")
STATE_BACKENDS = ("hashmap", "rocksdb")


@dataclass(frozen=True)
class Config:
    """The job and how it runs.

    Attributes:
        name: of the job; two jobs of one cluster need two names.
        out_of_orderness_ms: an event so far behind the newest of its partition, or further, is
            late. With 1 a partition has to be in order.
        idle_timeout_s: a partition without records for so long holds the watermark back no more.
            The replay's heartbeats keep its partitions from falling idle.
        discovery_interval_s: how often a running job looks for partitions that were added.
        max_ahead_ms: an event time further ahead of its record's own timestamp is a dead letter.
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
        restart_attempts: restarts after failures that follow each other closely.
        restart_delay_ms: before each of them.
        savepoint_timeout_s: how long a savepoint may take when the keeper is told to stop; after
            that the job is cancelled, and goes on from its last checkpoint.
        properties: further settings of the Kafka clients, in Kafka's own names (security, ...).
    """

    name: str = "sparc-sequences"
    out_of_orderness_ms: int = 5000
    idle_timeout_s: float = 30.0
    discovery_interval_s: float = 10.0
    max_ahead_ms: int = 86_400_000
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
    properties: dict[str, str] = field(default_factory=dict)

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
            ("savepoint_timeout_s", self.savepoint_timeout_s > 0, "above 0"),
            ("max_ahead_ms", self.max_ahead_ms >= 0, "not negative"),
            ("max_value_bytes", 1 <= self.max_value_bytes < 1 << 31, "from 1 to 2 GiB"),
            ("idle_timeout_s", self.idle_timeout_s > 0, "above 0"),
        ):
            if not good:
                raise ValueError(f"streaming.{setting} is {getattr(self, setting)!r}: {rule}")


@dataclass(frozen=True)
class Surroundings:
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
    """

    bootstrap: str
    flink: str
    jars: tuple[str, ...]
    checkpoints: str
    topics: Topics = Topics()
    restore: str = ""
    job_id: str = ""
    client: dict[str, str] = field(default_factory=dict)


def quoted(text: str) -> str:
    """A string literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def _options(options: dict[str, str]) -> str:
    return ",\n  ".join(f"{quoted(k)} = {quoted(v)}" for k, v in options.items())


def statements(config: Config, around: Surroundings) -> tuple[list[str], str]:
    """The definitions, and the one INSERT that is the job."""
    topics = around.topics
    client = around.client | config.properties
    properties = {f"properties.{name}": value for name, value in client.items()}
    raw = {
        "key.format": "raw",
        "key.fields": "key",
        "value.format": "raw",
        "value.fields-include": "EXCEPT_KEY",
    }
    source = {
        "connector": "kafka",
        "topic": topics.clicks,
        "properties.bootstrap.servers": around.bootstrap,
        "properties.group.id": config.name,
        # Where there is no checkpoint to go on from, the topic is read from its beginning.
        "scan.startup.mode": "earliest-offset",
        # With each record rather than five times a second: what is late is then a property of the
        # log (while no restart intervenes), and a click goes out as soon as it may.
        "scan.topic-partition-discovery.interval": f"{int(config.discovery_interval_s * 1000)} ms",
        "scan.watermark.emit.strategy": "on-event",
        "scan.watermark.idle-timeout": f"{int(config.idle_timeout_s * 1000)} ms",
        **properties,
        **raw,
    }
    sink = {
        "connector": "kafka",
        "topic": ";".join((topics.sequences, topics.clicks_late, topics.clicks_dlq)),
        "properties.bootstrap.servers": around.bootstrap,
        "properties.max.request.size": str(8 * 1024 * 1024),
        "sink.delivery-guarantee": config.delivery,
        **properties,
        **raw,
    }
    if config.delivery == "exactly-once":
        sink |= {
            "sink.transactional-id-prefix": f"{config.name}-",
            # Takes over the transactions of a job that was killed, by asking the broker.
            "sink.transaction-naming-strategy": "POOLING",
            "properties.transaction.timeout.ms": str(3600 * 1000),
        }
    classes = {
        "click_time": "ClickTime",
        "read_click": "ReadClick",
        "user_sequences": "ExpiringUserSequences" if config.user_ttl else "UserSequences",
    }
    functions = [
        f"CREATE TEMPORARY SYSTEM FUNCTION {name} AS 'sparc.streaming.{java}' LANGUAGE JAVA"
        for name, java in classes.items()
    ]
    bounds = f"CAST({config.max_ahead_ms} AS BIGINT), {config.max_value_bytes}"
    seconds, ms = divmod(config.out_of_orderness_ms, 1000)
    digits = max(2, len(str(seconds)))
    clicks = f"""
CREATE TEMPORARY TABLE clicks (
  `key` BYTES,
  `value` BYTES,
  `topic` STRING NOT NULL METADATA VIRTUAL,
  `partition` INT NOT NULL METADATA VIRTUAL,
  `offset` BIGINT NOT NULL METADATA VIRTUAL,
  `timestamp` TIMESTAMP_LTZ(3) NOT NULL METADATA VIRTUAL,
  headers MAP<STRING NOT NULL, BYTES NOT NULL> NOT NULL METADATA VIRTUAL,
  clock AS click_time(`value`, `key`, `timestamp`, {bounds}),
  WATERMARK FOR clock AS clock - INTERVAL '{seconds}.{ms:03d}' SECOND({digits}, 3)
) WITH (
  {_options(source)}
)"""
    output = f"""
CREATE TEMPORARY TABLE output_topics (
  `topic` STRING METADATA,
  `key` BYTES,
  `value` BYTES,
  headers MAP<STRING, BYTES> METADATA
) WITH (
  {_options(sink)}
)"""
    view = f"""
CREATE TEMPORARY VIEW read_clicks AS
SELECT user_id, event_id, item_id, event_time, dead_letter, `key`, `value`
FROM clicks, LATERAL TABLE(read_click(
  `key`, `value`, headers, `topic`, `partition`, `offset`, `timestamp`, {bounds}
)) AS parsed(user_id, event_id, item_id, event_time, dead_letter)"""  # noqa: S608 (own numbers)
    insert = f"""
INSERT INTO output_topics
SELECT
  CASE kind
    WHEN 'sequence' THEN {quoted(topics.sequences)}
    WHEN 'late' THEN {quoted(topics.clicks_late)}
    ELSE {quoted(topics.clicks_dlq)}
  END,
  output_key, output_value, output_headers
FROM user_sequences(
  click => TABLE read_clicks PARTITION BY user_id,
  remembered => {config.dedup_horizon},
  uid => 'user-sequences'
)"""  # noqa: S608 (quoted)
    return [*functions, clicks, output, view], insert


def flink_settings(config: Config, around: Surroundings) -> dict[str, str]:
    """The settings of the job for Flink."""
    host, _, port = around.flink.rpartition(":")
    jars = ";".join(Path(jar).resolve().as_uri() for jar in around.jars)
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
        "table.exec.uid.generation": "PLAN_ONLY",
        "table.exec.uid.format": "<id>_<transformation>",
        "execution.checkpointing.interval": f"{config.checkpoint_interval_ms} ms",
        # A snapshot of much state must leave time for the work itself.
        "execution.checkpointing.min-pause": f"{config.checkpoint_interval_ms // 2} ms",
        "execution.checkpointing.dir": around.checkpoints,
        "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
        "execution.checkpointing.num-retained": "3",
        "execution.checkpointing.timeout": "5 min",
        "execution.checkpointing.tolerable-failed-checkpoints": "10",
        "state.backend.type": config.state_backend,
        "table.exec.state.ttl": config.user_ttl or "0",
        "restart-strategy.type": "failure-rate",
        "restart-strategy.failure-rate.max-failures-per-interval": str(config.restart_attempts),
        "restart-strategy.failure-rate.failure-rate-interval": "5 min",
        "restart-strategy.failure-rate.delay": f"{config.restart_delay_ms} ms",
        "python.executable": sys.executable,
        "python.client.executable": sys.executable,
    }
    if around.restore:
        settings["execution.state-recovery.path"] = around.restore
        settings["execution.state-recovery.claim-mode"] = "NO_CLAIM"
    if around.job_id:
        settings["$internal.pipeline.job-id"] = around.job_id
    return settings


def to_json(config: Config, around: Surroundings) -> str:
    """What `python -m streaming.submission` reads."""
    return json.dumps({"config": asdict(config), "around": asdict(around)})


def from_json(text: str) -> tuple[Config, Surroundings]:
    """The inverse of `to_json`."""
    body = json.loads(text)
    around = body["around"]
    return Config(**body["config"]), replace(
        Surroundings(**around), topics=Topics(**around["topics"]), jars=tuple(around["jars"])
    )
