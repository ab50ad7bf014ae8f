"""A replay from beginning to end: files -> canonical order -> topics `items` and `clicks`.

    1. stage       the log is sorted into the data directory, once for each content
    2. ask Kafka   what the topics hold of it already; another log is refused here at the latest
    3. announce    the items that are missing or changed, and wait until they are stored
    4. replay      the clicks that are missing, at the pace of the simulated clock; every second,
                   and at the end, a heartbeat on every partition tells the log's time

Killed at any point and started again, it goes on where it was: nothing is lost or sent twice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import structlog

from replay import begun_log, download, synthetic
from replay.announced_items import is_announced, note_announced, read_announced
from replay.clock import SimulatedClock
from replay.config import ReplayConfig
from replay.exclusive import exclusive
from replay.heartbeat import Pulse
from replay.librdkafka_producer import LibrdkafkaProducer
from replay.log_in_kafka import find_clicks
from replay.producer import KafkaPythonProducer, Patience, Producer, partition_of
from replay.resumption import CHUNK, Stored
from replay.staged_log import StagedLog
from replay.staging import stage
from streaming.events import Click
from streaming.kafka_clients import KafkaConnection
from streaming.statuses import ReplayStatus, Report
from streaming.topic_identity import TopicIdentity
from streaming.topics import Topics, create_missing

logger = structlog.get_logger(__name__)
BETWEEN_LOOKS = 256
"""Events between two looks at the wall clock when nothing is held back."""


class _Stopped(Exception):
    """The replay was told to stop."""


class Replay:
    """One run; `totals` says how far it is.

    Args:
        config: which log, and how fast.
        kafka: where the topics are.
        topics: topic names; topics that are missing are created.
        data_dir: the pipeline's data directory.
        stop: ends the run early when set.
        report: called about every second with `totals`.
        librdkafka: further settings of librdkafka, for `config.client` "confluent-kafka".
        partitions: of `clicks`, when it is created.
        replication: of the topics that are created.
        keep_days: how long what says something of users is kept, see `streaming.topics`.
        out_of_orderness_ms: of the streaming job; the last heartbeat lies that much after the last
            event, so that the job lets everything go.
        now: real time in seconds, from any origin.
        today: Unix time in seconds.
    """

    def __init__(
        self,
        config: ReplayConfig,
        kafka: KafkaConnection,
        topics: Topics,
        data_dir: Path,
        stop: threading.Event,
        report: Report,
        *,
        librdkafka: Mapping[str, Any] | None = None,
        partitions: int = 1,
        replication: int = 1,
        keep_days: float = 0,
        out_of_orderness_ms: int = 5000,
        now: Callable[[], float] = time.monotonic,
        today: Callable[[], float] = time.time,
    ) -> None:
        self.config = config
        self.topics = topics
        self.data_dir = data_dir
        self.totals: dict[str, Any] = {
            "state": "starting",
            "done": False,
            "events_read": 0,
            "events_total": 0,
            "bad_lines": 0,
            "first_bad_lines": [],
            "items_announced": 0,
            "items_total": 0,
            "clicks_produced": 0,
            "simulated_time_ms": 0,
        }
        self._stop = stop
        self._report = report
        self._librdkafka = dict(librdkafka or {})
        self._spread = partitions
        self._replication = replication
        self._keep_days = keep_days
        self._out_of_orderness_ms = out_of_orderness_ms
        self._now = now
        self._today = today
        self._reported = self._beaten = -1e9
        self._kafka = kafka
        self._patience = Patience(kafka, config.patience_seconds, self._waiting, now, self._pause)
        self._identity = TopicIdentity(
            data_dir,
            "replay",
            kafka,
            {"items": topics.items, "clicks": topics.clicks},
        )

    def run(self) -> dict[str, Any]:
        """Replay until the end of the log or until told to stop; returns the totals.

        Raises:
            ReplayError: if the log cannot be used, Kafka holds another log, or Kafka stays away.
            ForeignKafkaError: if it is not the Kafka, or not the topics, that were begun.
        """
        with exclusive(self.data_dir):
            try:
                log = self._stage()
                producer = self._connect()
                try:
                    # Before anything is sent: what is announced cannot be taken back.
                    sent = begun_log.clicks_sent(log.directory.parent) or 0
                    stored = find_clicks(log, self.topics.clicks, self._patience, sent)
                    self._begun(log, stored.complete)
                    self._announce(producer, log)
                    self._replay(producer, log, stored)
                finally:
                    producer.close()
                    self._identity.close()
                self.totals |= {"state": "done", "done": True}
            except _Stopped:
                self.totals["state"] = "stopped"
        self._tell()
        return self.totals

    def _tell(self, **totals: Any) -> None:
        self.totals |= totals
        self._reported = self._now()
        self._report(ReplayStatus(**self.totals))

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise _Stopped

    def _waiting(self, seconds: float) -> None:
        self._pause(0)
        if seconds >= 1:
            logger.warning("waiting_for_kafka", seconds=round(seconds))
            self._report(ReplayStatus(**self.totals | {"state": "waiting for Kafka"}))

    def _stage(self) -> StagedLog:
        config = self.config
        self._tell(state="staging")
        events, items = self._files()
        log = stage(
            events,
            items,
            self.data_dir,
            int(self._today() * 1000),
            strict=config.strict,
            memory_mb=config.sort_memory_mb,
            progress=self._read,
        )
        for note in log.notes:
            logger.info("columns", note=note)
        for line in log.first_bad_lines:
            logger.warning("bad_line", line=line)
        logger.info(
            "staged",
            events=log.events,
            items=log.items,
            bad_lines=log.bad_lines,
            directory=str(log.directory),
        )
        self._tell(
            events_read=log.events,
            events_total=log.events,
            bad_lines=log.bad_lines,
            first_bad_lines=list(log.first_bad_lines),
            items_total=log.items,
        )
        return log

    def _files(self) -> tuple[Path, Path | None]:
        """The log and its catalogue: given, downloaded, or made."""
        config = self.config
        if config.dataset:
            return download.fetch(config.dataset, self.data_dir / "downloads", self._downloaded)
        if config.events:
            return config.events, config.items
        return synthetic.write(config.synthetic, self.data_dir / "replay" / "synthetic")

    def _read(self, events: int, bad_lines: int) -> None:
        self._pause(0)
        self.totals |= {"events_read": events, "bad_lines": bad_lines}
        if self._now() - self._reported >= 1:
            self._tell()

    def _downloaded(self, name: str, done: int, total: int | None) -> None:
        self._pause(0)
        if self._now() - self._reported >= 1:
            self._reported = self._now()
            status = {"state": "downloading", "file": name, "bytes": done, "of_bytes": total}
            self._report(ReplayStatus(**self.totals | status))

    def _connect(self) -> Producer:
        def create() -> list[str]:
            return create_missing(
                self._kafka,
                self.data_dir,
                self.topics,
                partitions=self._spread,
                replication=self._replication,
                keep_days=self._keep_days,
            )

        if created := self._patience.until(create):
            logger.info("topics_created", topics=created)
        self._check_topics()
        if self.config.client == "confluent-kafka":
            return LibrdkafkaProducer(self._patience, self._librdkafka)
        return KafkaPythonProducer(self._patience)

    def _check_topics(self, *, idle: bool = False) -> None:
        """Nothing more is sent to a topic that is not the one that was begun."""
        self._patience.until(lambda: self._identity.check(idle=idle))

    def _announce(self, producer: Producer, log: StagedLog) -> None:
        self._tell(state="announcing")
        if is_announced(log):
            self.totals["items_announced"] = log.items
            return
        topic = self.topics.items
        announced = read_announced(topic, self._patience, self._pause)
        partitions = producer.partitions(topic)
        sent = 0
        for position, item in log.read_items():
            if item not in announced:
                key = item.key()
                producer.send(topic, key, item.to_bytes(), position, partition_of(key, partitions))
                sent += 1
            self.totals["items_announced"] += 1
            if (position + 1) % CHUNK == 0:
                self._pause(0)
                producer.flush()
                self._tell()
        producer.flush()
        note_announced(log)
        if sent:
            logger.info("items_announced", sent=sent, items=log.items)

    def _begun(self, log: StagedLog, clicks: int) -> None:
        """All clicks before this one are stored, and items are going to be."""
        begun_log.note(log.directory.parent, clicks)

    def _replay(self, producer: Producer, log: StagedLog, stored: Stored) -> None:
        self._tell(state="replaying")
        topic = self.topics.clicks
        if stored.count:
            logger.info("resumed", clicks_produced=stored.count, events=log.events)
        self.totals["clicks_produced"] = stored.count
        pulse = Pulse(producer, topic)
        clock: SimulatedClock | None = None
        for position, click in _clicks(log, stored.complete):
            if position not in stored.present:
                time_ms = click.event_time
                clock = clock or SimulatedClock(
                    time_ms, self.config.rate, self.config.speedup, self._now
                )
                while clock.paced and (delay := clock.delay(time_ms)) > 0:
                    self._beat(log, pulse, position - 1, clock.time_ms(time_ms))
                    self._pause(min(delay, self.config.heartbeat_seconds))
                key = click.key()
                partition = partition_of(key, pulse.partitions)
                producer.send(topic, key, click.to_bytes(), position, partition)
                clock.leave(time_ms)
                self.totals["clicks_produced"] += 1
            if (position + 1) % CHUNK == 0:
                self._pause(0)
                producer.flush()
                self._begun(log, position + 1)
                self._tell(simulated_time_ms=click.event_time)
            if clock and (position + 1) % BETWEEN_LOOKS == 0:
                self._beat(log, pulse, position, click.event_time)
        producer.flush()
        end_ms = log.last_time_ms + self._out_of_orderness_ms
        pulse.beat(log.events - 1, end_ms, stored.newest_ms)
        self._begun(log, log.events)
        self._tell(simulated_time_ms=log.last_time_ms)

    def _beat(self, log: StagedLog, pulse: Pulse, position: int, time_ms: int) -> None:
        """A heartbeat and a report, when the last ones are long enough ago."""
        if self._now() - self._beaten < self.config.heartbeat_seconds:
            return
        self._beaten = self._now()
        self._pause(0)
        self._check_topics(idle=True)
        pulse.beat(position, time_ms)
        self._begun(log, position + 1)
        self._tell(simulated_time_ms=time_ms)


def _clicks(log: StagedLog, start: int) -> Iterator[tuple[int, Click]]:
    for batch in log.read_events(start):
        for position, row in enumerate(zip(*batch[1:], strict=True), batch.position):
            yield position, Click(*row)


def run(
    config: ReplayConfig,
    kafka: KafkaConnection,
    topics: Topics,
    data_dir: Path,
    stop: threading.Event,
    report: Report,
    **options: Any,
) -> dict[str, Any]:
    """Replay a log into Kafka; see `Replay` for the arguments and `Replay.run` for the errors."""
    return Replay(config, kafka, topics, data_dir, stop, report, **options).run()
