"""The topics of the pipeline: names, partitions, and their retention.

Kafka deletes by the time of a *record*. What says something of users is deleted so many days after
it came: the broker itself stamps it as it arrives, since a producer may stamp a record with the
time of its event, and those of a replayed log are years old. With 0 days nothing is deleted, and
records keep their producers' times.

A topic that is there already is made to fit. What it got before it was stamped so has times that
say nothing; so there retention begins only when all of that is old enough whatever it says:

    <data_dir>/retention.json   topic -> ms since 1970 at which the broker began to stamp it
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, fields
from pathlib import Path

import orjson
import structlog
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, NewTopic
from kafka.errors import KafkaError, KafkaTimeoutError, TopicAlreadyExistsError

from streaming.bounds import DAY_MS
from streaming.durable_files import write_atomically
from streaming.errors import KafkaUnavailable
from streaming.kafka_clients import KafkaConnection
from streaming.topic_identity import check_before_creation

log = structlog.get_logger(__name__)

STAMP = "message.timestamp.type"
ON_ARRIVAL = {STAMP: "LogAppendTime"}
RETENTION_FILE = "retention.json"
COMPACTED = {"cleanup.policy": "compact"}
# Who reads `items` from its beginning, however late, has to learn what was withdrawn: a century.
KEEP_TOMBSTONES = {"delete.retention.ms": str(100 * 365 * 86_400_000)}
LEADER_SECONDS = 30.0
KAFKA_PATIENCE_SECONDS = 300.0


@dataclass(frozen=True)
class Topics:
    """Topic names; several pipelines share a broker by using other names."""

    items: str = "items"
    items_dlq: str = "items.dlq"
    clicks: str = "clicks"
    clicks_late: str = "clicks.late"
    clicks_dlq: str = "clicks.dlq"
    sequences: str = "sequences"
    snapshots: str = "snapshots"

    def prefixed(self, prefix: str) -> Topics:
        """The same topics with `prefix` before each name."""
        return Topics(**{f.name: prefix + getattr(self, f.name) for f in fields(self)})

    def of_users(self) -> tuple[str, ...]:
        """Those that say something of users, and what nobody could read, which may."""
        return (
            self.clicks, self.clicks_late, self.clicks_dlq, self.sequences, self.items_dlq
        )  # fmt: skip

    def new_topics(
        self, partitions: int, replication: int = 1, keep_days: float = 0
    ) -> Iterator[NewTopic]:
        """Definitions to create; `clicks` and `sequences` are spread over `partitions`."""
        kept = _retention(keep_days) | (ON_ARRIVAL if keep_days else {})
        for name, count, config in (
            (self.items, 1, COMPACTED | KEEP_TOMBSTONES),
            (self.items_dlq, 1, kept),
            (self.clicks, partitions, kept),
            (self.clicks_late, 1, kept),
            (self.clicks_dlq, 1, kept),
            (self.sequences, partitions, kept),
            (self.snapshots, 1, COMPACTED),
        ):
            yield NewTopic(
                name=name,
                num_partitions=count,
                replication_factor=replication,
                topic_configs=config,
            )


def _retention(keep_days: float) -> dict[str, str]:
    """Settings of a topic whose records go after so many days; 0: never.

    A file of records goes as a whole, so each is closed after a day, or a quarter of those days.
    """
    if not keep_days:
        return {"retention.ms": "-1", "retention.bytes": "-1"}
    keep_ms = int(keep_days * DAY_MS)
    return {
        "retention.ms": str(keep_ms),
        "retention.bytes": "-1",
        "segment.ms": str(max(1, min(DAY_MS, keep_ms // 4))),
    }


def create_topics(
    admin: KafkaAdminClient,
    topics: Topics,
    *,
    partitions: int = 1,
    replication: int = 1,
    keep_days: float = 0,
) -> list[str]:
    """Create the topics that do not exist yet; returns their names.

    Raises:
        KafkaError: a topic could not be created, or has no leaders `LEADER_SECONDS` later.
    """
    existing = set(admin.list_topics())
    wanted = topics.new_topics(partitions, replication, keep_days)
    missing = [topic for topic in wanted if topic.name not in existing]
    created = []
    for topic in missing:
        with suppress(TopicAlreadyExistsError):  # another part was quicker
            admin.create_topics([topic])
            created.append(topic.name)
    _wait_for_leaders(admin, missing)
    return created


def create_missing(
    kafka: KafkaConnection,
    data_dir: Path,
    topics: Topics,
    *,
    partitions: int = 1,
    replication: int = 1,
    keep_days: float = 0,
) -> list[str]:
    """Create the topics that do not exist yet, in the Kafka of a data directory, and fit the rest.

    Raises:
        KafkaError: if Kafka does not answer, or a topic could not be created.
        ForeignKafkaError: if it is not the Kafka that the data directory's state comes from.
    """
    admin = kafka.admin()
    try:
        check_before_creation(data_dir, admin, f"the Kafka at {kafka.bootstrap}")
        created = create_topics(
            admin, topics, partitions=partitions, replication=replication, keep_days=keep_days
        )
        fit_retention(admin, data_dir, topics, keep_days)
        return created
    finally:
        admin.close()


def keep_fitting(
    kafka: KafkaConnection,
    data_dir: Path,
    topics: Topics,
    keep_days: float,
    monotonic: Callable[[], float] = time.monotonic,
) -> Callable[[], None]:
    """Called now and then, it looks once a day whether a topic's retention is due to begin."""
    looked = monotonic()

    def look() -> None:
        nonlocal looked
        if monotonic() < looked + DAY_MS / 1000:
            return
        looked = monotonic()
        with suppress(KafkaError), closing(kafka.admin()) as admin:  # else tomorrow
            fit_retention(admin, data_dir, topics, keep_days)

    return look


def fit_retention(
    admin: KafkaAdminClient,
    data_dir: Path,
    topics: Topics,
    keep_days: float,
    now: Callable[[], float] = time.time,
) -> None:
    """Make the topics that hold something of users keep it for so many days, see the module.

    A shorter time that somebody has set is left. Where that is not ours to set, it is logged.
    """
    found = [ConfigResource(ConfigResourceType.TOPIC, name) for name in topics.of_users()]
    try:
        told = admin.describe_configs(found, config_filter="all")["topic"]
        since, now_ms = _stamped_since(data_dir), int(now() * 1000)
        changes: dict[str, dict[str, str]] = {}
        for name, settings in told.items():
            have = {key: str(one["value"]) for key, one in settings.items()}
            changes[name] = _change(have, keep_days, since.get(name), now_ms)
            if STAMP in changes[name]:
                since[name] = now_ms
        changes = {name: change for name, change in changes.items() if change}
        if changes:
            _note_stamped(data_dir, since)
            alter_topics(admin, changes)
            log.info("how long topics keep their records was set", **changes)
    except (KafkaError, ValueError, KeyError, OSError) as error:
        log.warning(
            "how long topics keep their records cannot be set: set retention.ms yourself",
            days=keep_days,
            topics=topics.of_users(),
            reason=str(error),
        )


def alter_topics(admin: KafkaAdminClient, changes: Mapping[str, Mapping[str, str]]) -> None:
    """Change settings of topics: name -> setting -> value.

    Raises:
        KafkaError: naming those that Kafka does not change.
    """
    resources = [ConfigResource(ConfigResourceType.TOPIC, n, dict(c)) for n, c in changes.items()]
    said = admin.alter_configs(resources).get("topic", {})
    if refused := {name: said.get(name, "no answer") for name in changes if said.get(name) != "OK"}:
        raise KafkaError(f"topics are not altered: {refused}")


def _change(
    have: Mapping[str, str], keep_days: float, since_ms: int | None, now_ms: int
) -> dict[str, str]:
    """What is to be changed of a topic's settings, which the broker stamps since so long."""
    wanted = _retention(keep_days)
    if keep_days and have[STAMP] != ON_ARRIVAL[STAMP]:
        return {**ON_ARRIVAL, "segment.ms": wanted["segment.ms"]}
    if since_ms is not None and now_ms < since_ms + keep_days * DAY_MS:
        return {}
    if keep_days and 0 <= int(have["retention.ms"]) <= keep_days * DAY_MS:
        return {}
    return {key: value for key, value in wanted.items() if have[key] != value}


def _stamped_since(data_dir: Path) -> dict[str, int]:
    try:
        body: dict[str, int] = orjson.loads((data_dir / RETENTION_FILE).read_bytes())
        return body
    except FileNotFoundError:
        return {}


def _note_stamped(data_dir: Path, since: Mapping[str, int]) -> None:
    if since:
        write_atomically(data_dir / RETENTION_FILE, orjson.dumps(since))


def await_topics(
    kafka: KafkaConnection,
    data_dir: Path,
    topics: Topics,
    stop: threading.Event,
    waiting: Callable[[], object],
    *,
    partitions: int = 1,
    replication: int = 1,
    keep_days: float = 0,
) -> bool:
    """Wait for Kafka and create the topics that are missing; False if told to stop meanwhile.

    Raises:
        KafkaUnavailable: if it does not answer for `KAFKA_PATIENCE_SECONDS`.
        ForeignKafkaError: if it is not the Kafka that the data directory's state comes from.
    """
    began = time.monotonic()
    while not stop.is_set():
        try:
            create_missing(
                kafka,
                data_dir,
                topics,
                partitions=partitions,
                replication=replication,
                keep_days=keep_days,
            )
            return True
        except KafkaError as error:
            waited = time.monotonic() - began
            if waited > KAFKA_PATIENCE_SECONDS:
                raise KafkaUnavailable(
                    f"no Kafka at {kafka.bootstrap} for {waited:.0f} s ({error}); start it, or "
                    "correct [kafka] bootstrap"
                ) from error
        waiting()
        stop.wait(0.5)
    return False


def _wait_for_leaders(admin: KafkaAdminClient, topics: Sequence[NewTopic]) -> None:
    """Wait until every partition can be read and written.

    The job would take a partition that it does not see at its start for one that was added later:
    what had been written to it meanwhile might count as late.
    """
    until = time.monotonic() + LEADER_SECONDS
    led: dict[str, int] = {}
    while topics:
        for told in admin.describe_topics([topic.name for topic in topics]):
            led[told["name"]] = sum(part["leader_id"] >= 0 for part in told["partitions"])
        topics = [topic for topic in topics if led.get(topic.name, 0) < topic.num_partitions]
        if not topics:
            return
        if time.monotonic() > until:
            raise KafkaTimeoutError(f"no leaders for {', '.join(topic.name for topic in topics)}")
        time.sleep(0.05)
