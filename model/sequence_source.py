"""`items` and `sequences` from Kafka, at offsets that the trainer keeps itself.

No consumer group: partitions are assigned by hand, and offsets live in the trainer's checkpoint,
next to the weights they belong to. Only committed records are read. Transaction markers and
aborted records take offsets but are never seen; the position behind them is what counts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import structlog
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import (
    AuthorizationError,
    KafkaConfigurationError,
    KafkaError,
    LogTruncationError,
    OffsetOutOfRangeError,
    SaslAuthenticationFailedError,
)

from model.micro_batch import ITEMS, SEQUENCES, Plan, Polled, Ranges, Record, TrainerError
from model.source import Offsets, SourceUnavailable, parse, parse_item, parse_sequence
from streaming.events import Item, UserSequence
from streaming.topics import Topics

log = structlog.get_logger(__name__)

V = TypeVar("V")

POLL_MS = 50
ASK_MS = 5_000
"""How long to wait for an answer of the broker before it counts as away."""
SEQUENCES_PER_POLL = 2_000
ITEMS_PER_POLL = 5_000
HOPELESS = (KafkaConfigurationError, AuthorizationError, SaslAuthenticationFailedError)


class _Stream:
    """One topic, read from given offsets on."""

    def __init__(
        self,
        topic: str,
        parser: Callable[[bytes | None], Any],
        settings: Mapping[str, Any],
        max_records: int,
    ) -> None:
        self._topic = topic
        self._parser = parser
        self._max_records = max_records
        self._consumer = KafkaConsumer(
            **settings,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            max_poll_records=max_records,
            bootstrap_timeout_ms=ASK_MS,
        )
        self._assigned: list[TopicPartition] = []

    def close(self) -> None:
        self._consumer.close()

    def seek(self, offsets: Mapping[int, int]) -> None:
        """Read on at these offsets; partitions that are not named start at 0."""
        self._assigned = []
        self._discover(offsets)

    def _discover(self, offsets: Mapping[int, int]) -> None:
        """Assign all partitions the topic has; new ones start at `offsets`, or 0."""
        numbers = self._consumer.partitions_for_topic(self._topic)
        if not numbers:
            raise SourceUnavailable(
                f"Kafka has no topic {self._topic!r} yet, or does not answer "
                f"(at {self._consumer.config['bootstrap_servers']})"
            )
        partitions = [TopicPartition(self._topic, p) for p in sorted(numbers)]
        if partitions == self._assigned:
            return
        kept = {tp: self._position(tp) for tp in self._assigned}
        self._consumer.assign(partitions)
        for tp in partitions:
            self._consumer.seek(tp, kept.get(tp, offsets.get(tp.partition, 0)))
        self._assigned = partitions

    def _position(self, tp: TopicPartition) -> int:
        position = self._consumer.position(tp, timeout_ms=ASK_MS)
        if position is None:
            raise SourceUnavailable(f"Kafka does not answer ({tp.topic} {tp.partition})")
        return int(position)

    def positions(self) -> dict[int, int]:
        """Partition -> offset after all that was returned."""
        return {tp.partition: self._position(tp) for tp in self._assigned}

    def ends(self) -> dict[int, int]:
        """Partition -> end of what is committed."""
        self._discover({})
        ends = self._consumer.end_offsets(self._assigned, timeout_ms=ASK_MS)
        return {tp.partition: int(end) for tp, end in ends.items()}

    def poll(self, timeout_ms: int, enough: Collection[int] = ()) -> dict[int, list[Record[Any]]]:
        """Read on, not from partitions in `enough`."""
        paused = [tp for tp in self._assigned if tp.partition in enough]
        if self._assigned and len(paused) == len(self._assigned):
            return {}
        self._consumer.pause(*paused)
        try:
            fetched = self._consumer.poll(timeout_ms, max_records=self._max_records)
        finally:
            self._consumer.resume(*paused)
        return {tp.partition: [self._record(r) for r in records] for tp, records in fetched.items()}

    def _record(self, record: Any) -> Record[Any]:
        place = {"topic": self._topic, "partition": record.partition, "offset": record.offset}
        return Record(record.offset, parse(self._parser, record.value, place))

    def check(self, ends: Mapping[int, int]) -> None:
        """Refuse a position beyond the end: the topic is not the one that was read."""
        for partition, position in self.positions().items():
            if partition in ends and position > ends[partition]:
                raise TrainerError(
                    f"{self._topic} partition {partition}: the checkpoint goes on at offset "
                    f"{position}, but the topic ends at {ends[partition]}: it was recreated; "
                    "restore it, or begin anew with --fresh"
                )

    def read(self, ranges: Ranges) -> dict[int, list[Record[Any]]]:
        """Exactly the records of these ranges, whatever gaps they have."""
        found: dict[int, list[Record[Any]]] = {partition: [] for partition in ranges}
        self._assigned = []
        waiting = {TopicPartition(self._topic, p): (a, b) for p, (a, b) in ranges.items() if a < b}
        self._consumer.assign(list(waiting))
        for tp, (start, _) in waiting.items():
            self._consumer.seek(tp, start)
        silent = 0
        while waiting:
            fetched = self._consumer.poll(POLL_MS, max_records=self._max_records)
            for tp, records in fetched.items():
                if tp in waiting:
                    end = waiting[tp][1]
                    found[tp.partition] += [self._record(r) for r in records if r.offset < end]
            for tp in [tp for tp in waiting if self._position(tp) >= waiting[tp][1]]:
                del waiting[tp]
                self._consumer.pause(tp)  # no use in what follows the range
            silent = 0 if fetched else silent + 1
            if waiting and silent * POLL_MS >= ASK_MS:
                ends = self._consumer.end_offsets(list(waiting), timeout_ms=ASK_MS)
                for tp, (_, end) in waiting.items():
                    if ends[tp] < end:
                        raise TrainerError(
                            f"{self._topic} partition {tp.partition}: the journal has a "
                            f"micro-batch up to offset {end}, but the topic ends at {ends[tp]}: "
                            "it was recreated; restore it, or begin anew with --fresh"
                        )
                raise SourceUnavailable(f"Kafka sends nothing of {self._topic}")
        self._consumer.resume(*self._consumer.paused())
        return found


class SequenceSource:
    """A `Source` over Kafka.

    `settings` are keyword arguments of `KafkaConsumer` besides the bootstrap servers (security,
    client id, ...). Connects on first use, and again after an error.
    """

    def __init__(self, bootstrap: str, topics: Topics, settings: Mapping[str, Any]) -> None:
        self._settings = {"bootstrap_servers": bootstrap, **settings}
        self._bootstrap = bootstrap
        self._topics = topics
        self._streams: tuple[_Stream, _Stream] | None = None
        self._offsets: dict[str, dict[int, int]] = {SEQUENCES: {}, ITEMS: {}}
        self._ready = False

    def seek(self, offsets: Offsets) -> None:
        """Make `poll` go on at these offsets."""
        self._offsets = {s: dict(offsets.get(s, {})) for s in (SEQUENCES, ITEMS)}
        self._ready = False

    def _connected(self) -> tuple[_Stream, _Stream]:
        if self._streams is None:
            sequences = _Stream(
                self._topics.sequences, parse_sequence, self._settings, SEQUENCES_PER_POLL
            )
            try:
                items = _Stream(self._topics.items, parse_item, self._settings, ITEMS_PER_POLL)
            except KafkaError:
                sequences.close()
                raise
            self._streams = (sequences, items)
        return self._streams

    def _failed(self, error: Exception) -> Exception:
        """What an error means; the connection is given up, for what it fetched is lost."""
        self.close()
        if isinstance(error, SourceUnavailable):
            return error
        if isinstance(error, HOPELESS):
            return TrainerError(f"Kafka at {self._bootstrap} refuses the trainer: {error!r}")
        if isinstance(error, OffsetOutOfRangeError | LogTruncationError):
            return TrainerError(
                f"offsets of the checkpoint are not in the log any more ({error}): the topic was "
                "recreated, or its retention deleted them; restore it, or begin anew with --fresh"
            )
        return SourceUnavailable(f"Kafka at {self._bootstrap} is not available ({error!r})")

    def poll(self, enough: Collection[int]) -> Polled:
        """Read on: sequences first, then the items up to their end."""
        try:
            return self._poll(enough)
        except (KafkaError, SourceUnavailable) as error:
            raise self._failed(error) from error

    def _poll(self, enough: Collection[int]) -> Polled:
        sequences, items = self._connected()
        if not self._ready:
            for stream, name in ((sequences, SEQUENCES), (items, ITEMS)):
                stream.seek(self._offsets[name])
                stream.check(stream.ends())
            self._ready = True
        polled = Polled(sequences=sequences.poll(POLL_MS, enough))
        item_ends = items.ends()
        while not _reached(items.positions(), item_ends):
            more = items.poll(POLL_MS)
            for partition, records in more.items():
                polled.items.setdefault(partition, []).extend(records)
            if not more or sum(map(len, polled.items.values())) >= ITEMS_PER_POLL:
                break
        polled.ends = {SEQUENCES: sequences.ends(), ITEMS: item_ends}
        polled.next_offsets = {SEQUENCES: sequences.positions(), ITEMS: items.positions()}
        # A connection that is made anew goes on here, not at what was trained.
        self._offsets = {s: dict(o) for s, o in polled.next_offsets.items()}
        return polled

    def read(
        self, plan: Plan
    ) -> tuple[dict[int, list[Record[Item]]], dict[int, list[Record[UserSequence]]]]:
        """Read exactly the ranges of a plan."""
        self._ready = False
        try:
            sequences, items = self._connected()
            return items.read(plan.items), sequences.read(plan.sequences)
        except (KafkaError, SourceUnavailable) as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Close the connections."""
        for stream in self._streams or ():
            stream.close()
        self._streams, self._ready = None, False


def _reached(positions: Mapping[int, int], ends: Mapping[int, int]) -> bool:
    return all(positions.get(partition, 0) >= end for partition, end in ends.items())
