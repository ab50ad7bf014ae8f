"""The indexer as a process: `items` from Kafka, handovers from disk, snapshots for readers.

Offsets are kept in the indexer's own store, with what was read at them, so there is no consumer
group. One thread reads items, appends what can be served at once, and publishes; another prepares
the next version, which takes seconds. It goes on when a handover is damaged and waits when Kafka is
away.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from kafka.errors import KafkaError

from indexer.errors import IndexerError
from indexer.indexing.config import IndexerConfig
from indexer.indexing.indexer import Indexer
from indexer.indexing.item_store import ItemStore
from indexer.indexing.listing import Announced
from indexer.indexing.publication import Prepared
from indexer.indexing.tombstones import Tombstones
from indexer.snapshots.snapshot_reading import ModelLoader
from streaming.committed_topic import CommittedTopic
from streaming.dead_letters import DeadLetter, DeadLetterBox
from streaming.errors import KafkaUnavailable
from streaming.item_lifetime import ItemsConfig
from streaming.kafka_clients import KafkaConnection
from streaming.statuses import IndexerStatus, Report
from streaming.topic_identity import TopicIdentity
from streaming.topics import Topics

STORE = "indexer/rocksdb"
POLL_MS = 200
MAX_RECORDS = 5000
REPORT_S = 1.0
KAFKA_PATIENCE_MS = 1000
"""Handovers go on being indexed while Kafka is away, so nothing waits for it for long."""


class ItemsReader:
    """Reads `items` from given offsets, as long as it is the topic that these count in.

    A topic whose first records were deleted is read from its present beginning.

    Raises:
        ForeignKafkaError: also from `read`: it is another topic, of the same name or not.
    """

    def __init__(
        self, kafka: KafkaConnection, topic: str, position: dict[int, int], data_dir: Path
    ) -> None:
        self._identity = TopicIdentity(data_dir, "indexer", kafka, {"items": topic})
        self._position = dict(position)
        self._unchecked: dict[int, list[Any]] = {}
        self._astray = False
        try:
            self._identity.check()
            self._topic = CommittedTopic(kafka, topic, MAX_RECORDS, KAFKA_PATIENCE_MS)
            self._topic.seek(position)
        except KafkaError as error:
            raise IndexerError(
                f"Kafka at {kafka.bootstrap} cannot be read ({error}); start it or correct the "
                "address"
            ) from error
        except KafkaUnavailable as error:
            self._topic.close()
            raise IndexerError(
                f"topic {topic!r} does not exist; create the topics first"
            ) from error

    def read(self) -> tuple[list[Announced], dict[int, int]]:
        """Records, after a wait of at most `POLL_MS`, and the position.

        The position is given for partitions where it has moved: also over what was aborted.
        """
        if not self._unchecked:
            try:
                if self._astray:
                    self._topic.seek(self._position)
                    self._astray = False
                self._unchecked = self._topic.poll(POLL_MS)
            except (KafkaError, KafkaUnavailable) as error:
                if isinstance(error, KafkaError) and not error.retriable:
                    raise
                self._astray = True  # what it had fetched is gone: it is read again
        try:
            self._identity.check(idle=not self._unchecked)
        except KafkaError:  # what was read is kept until Kafka says what it is
            return [], {}
        if self._astray:
            return [], {}
        polled, self._unchecked = self._unchecked, {}
        records = [
            Announced(
                record.partition,
                record.offset,
                record.value,
                record.key,
                record.timestamp,
                tuple(record.headers),
            )
            for some in polled.values()
            for record in some
        ]
        positions = self._topic.positions()
        moved = {p: offset for p, offset in positions.items() if offset != self._position.get(p, 0)}
        self._position = positions
        return records, moved

    def lag(self) -> int | None:
        """Records not yet read; None while Kafka does not say."""
        if self._astray:  # it has no position until it is found again
            return None
        try:
            ends, read = self._topic.ends(), self._topic.positions()
        except (KafkaError, KafkaUnavailable):
            return None
        unchecked = sum(map(len, self._unchecked.values()))
        return unchecked + sum(max(0, end - read.get(p, 0)) for p, end in ends.items())

    def close(self) -> None:
        """Leave."""
        self._identity.close()
        self._topic.close()


def run(
    config: IndexerConfig,
    *,
    kafka: KafkaConnection,
    topics: Topics,
    data_dir: Path,
    stop: threading.Event,
    report: Report,
    load_model: ModelLoader | None = None,
    protected: Callable[[], Collection[int]] = tuple,
    items: ItemsConfig | None = None,
    clock: Callable[[], float] = time.monotonic,
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
) -> None:
    """Index until `stop` is set.

    Args:
        config: thresholds and retention.
        kafka: where the topics are.
        topics: `topics.items` is read; what is refused of it is written to `topics.items_dlq`.
        data_dir: handovers are read from it, snapshots and `current.json` written to it.
        stop: ends the loop.
        report: is called about every second.
        load_model: reads weights, `RetrievalModel.load` by default.
        protected: versions that retention must spare.
        items: how long items live; tombstones of those whose time is over go to `topics.items`.
        clock: monotonic seconds.
        now_ms: wall clock.

    Raises:
        IndexerError: if Kafka cannot be reached at the start, the topic is missing, or the store
            cannot be opened.
        ForeignKafkaError: if the topic is not the one that was indexed before.
        OSError: if the data directory cannot be written.
    """
    store = ItemStore(data_dir / STORE)
    try:
        aside = DeadLetterBox(kafka, topics.items_dlq)

        def keep_aside(refused: Sequence[tuple[Announced, str]]) -> None:
            aside.put(
                DeadLetter(
                    "", topics.items, one.partition, one.offset, one.timestamp, reason,
                    one.key, one.value, one.headers,
                )
                for one, reason in refused
            )  # fmt: skip

        indexer = Indexer(
            config, store, data_dir, now_ms, load_model, protected, keep_aside, items,
            Tombstones(kafka, topics.items).put,
        )  # fmt: skip
        indexer.behind = True  # until it has caught up, what was told as withdrawn stays so
        indexer.recover()
        reader = ItemsReader(kafka, topics.items, store.position, data_dir)
        try:
            _loop(indexer, reader, stop, report, clock)
        finally:
            reader.close()
    finally:
        store.close()


def _loop(
    indexer: Indexer,
    reader: ItemsReader,
    stop: threading.Event,
    report: Report,
    clock: Callable[[], float],
) -> None:
    reported = float("-inf")
    building: Future[Prepared | None] | None = None
    with ThreadPoolExecutor(1, "build") as builder:
        while building is not None or not stop.is_set():
            records, position = reader.read()
            if position:
                indexer.listen(records, position)
            if len(records) < MAX_RECORDS:  # else the topic is being read from far behind
                indexer.append_waiting()
            if building is not None:
                if building.done():
                    prepared, building = building.result(), None
                    if prepared is not None:
                        indexer.publish(prepared)
                    reported = float("-inf")
            elif (number := indexer.handovers.due(clock())) is not None:
                building = builder.submit(indexer.prepare, number)
            if clock() - reported >= REPORT_S:
                reported = clock()
                status = _status(indexer, reader)
                indexer.behind = indexer.behind and status.items_lag != 0
                report(status)
    report(_status(indexer, reader).and_says(state="stopped"))


def _status(indexer: Indexer, reader: ItemsReader) -> IndexerStatus:
    status, lag = indexer.status(), reader.lag()
    idle = not status.pending_handovers and not (status.version and status.waiting_items)
    return status.and_says(
        state=status.state if lag is not None else "waiting for Kafka",
        items_lag=lag,
        caught_up=lag == 0 and idle,
    )
