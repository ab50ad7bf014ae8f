"""`items` and `sequences` from Kafka, at offsets that the trainer keeps itself.

No consumer group: partitions are assigned by hand, and offsets live in the trainer's checkpoint,
next to the weights they belong to. Only committed records are read. What was read is used only
once Kafka has said, after the read, that the topics are still those that the offsets count in.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import structlog
from kafka.errors import (
    AuthorizationError,
    KafkaConfigurationError,
    KafkaError,
    LogTruncationError,
    OffsetOutOfRangeError,
    SaslAuthenticationFailedError,
)

from model.ranks import ALONE, Ranks
from model.training.micro_batch import ITEMS, SEQUENCES, Plan, Polled, Record, TrainerError
from model.training.source import Offsets, SourceUnavailable
from streaming.committed_topic import CommittedTopic, TopicEndsBefore
from streaming.errors import KafkaUnavailable
from streaming.events import Forgotten, UserSequence, parse_sequence
from streaming.items import Item, Withdrawal, announcement
from streaming.kafka_clients import KafkaConnection
from streaming.poison import Parser, parse
from streaming.topic_identity import TopicIdentity
from streaming.topics import Topics

log = structlog.get_logger(__name__)

V = TypeVar("V")

POLL_MS = 20
PATIENCE_MS = 5_000
SEQUENCES_PER_POLL = 2_000
ITEMS_PER_POLL = 5_000
HOPELESS = (KafkaConfigurationError, AuthorizationError, SaslAuthenticationFailedError)


class SequenceSource:
    """A `Source` over Kafka.

    `identity` knows "sequences" and "items" by their ids. Connects on first use, and again after an
    error. `log_end` tells where the log ends, by partition of `sequences`; nothing while nobody
    knows. Of several `ranks` each reads every so-many-th partition of `sequences`, and the leader
    the items.

    `poll` and `read` raise `ForeignKafkaError` where the topics are other ones.
    """

    def __init__(
        self,
        kafka: KafkaConnection,
        topics: Topics,
        identity: TopicIdentity,
        log_end: Callable[[], dict[int, int]] = dict,
        ranks: Ranks = ALONE,
    ) -> None:
        self._ranks = ranks
        self._log_end = log_end
        self._kafka = kafka
        self._topics = topics
        self._identity = identity
        self._streams: tuple[CommittedTopic, CommittedTopic] | None = None
        self._offsets: dict[str, dict[int, int]] = {SEQUENCES: {}, ITEMS: {}}
        self._ready = False

    def seek(self, offsets: Offsets) -> None:
        """Make `poll` go on at these offsets."""
        self._offsets = {
            SEQUENCES: {p: o for p, o in offsets.get(SEQUENCES, {}).items() if self._is_ours(p)},
            ITEMS: dict(offsets.get(ITEMS, {})) if self._ranks.leads else {},
        }
        self._ready = False

    def _is_ours(self, partition: int) -> bool:
        return partition % self._ranks.size == self._ranks.rank

    def _connected(self) -> tuple[CommittedTopic, CommittedTopic]:
        if self._streams is None:
            sequences = self._topic(self._topics.sequences, SEQUENCES_PER_POLL, self._is_ours)
            try:
                items = self._topic(self._topics.items, ITEMS_PER_POLL, lambda _: self._ranks.leads)
            except KafkaError:
                sequences.close()
                raise
            self._streams = (sequences, items)
        return self._streams

    def _topic(self, name: str, per_poll: int, wanted: Callable[[int], bool]) -> CommittedTopic:
        return CommittedTopic(
            self._kafka,
            name,
            per_poll,
            PATIENCE_MS,
            whole=True,
            fetch_wait_ms=POLL_MS,
            wanted=wanted,
        )

    def _failed(self, error: Exception, reader: str) -> Exception:
        """What an error means; the connection is given up, for what it fetched is lost.

        Args:
            error: Kafka's, or of the topic.
            reader: who wanted the offsets, in words.

        Raises:
            ForeignKafkaError: where the offsets are gone since the topic is another one.
        """
        self.close()
        if isinstance(error, KafkaUnavailable):
            return SourceUnavailable(str(error))
        if isinstance(error, TopicEndsBefore):
            return TrainerError(
                f"{error.topic} partition {error.partition}: {reader} offset {error.offset}, but "
                f"the topic ends at {error.end}: it was recreated; restore it, or begin anew with "
                "--fresh"
            )
        if isinstance(error, HOPELESS):
            return TrainerError(f"Kafka at {self._kafka.bootstrap} refuses the trainer: {error!r}")
        if isinstance(error, OffsetOutOfRangeError | LogTruncationError):
            with suppress(KafkaError):
                self._identity.check()  # names the topic, where it is another one
            return TrainerError(
                f"offsets of the checkpoint are not in the log any more ({error}): the topic was "
                "recreated, or its retention deleted them; restore it, or, if it was retention, "
                "move trainer/journal of the data directory away: training then goes on from the "
                "last checkpoint; else begin anew with --fresh"
            )
        return SourceUnavailable(f"Kafka at {self._kafka.bootstrap} is not available ({error!r})")

    def poll(self, enough: Collection[int]) -> Polled:
        """Read on: sequences first, then the items up to their end."""
        try:
            return self._poll(enough)
        except (KafkaError, KafkaUnavailable, TopicEndsBefore) as error:
            raise self._failed(error, "the checkpoint goes on at") from error

    def _poll(self, enough: Collection[int]) -> Polled:
        log_ends = self._log_end()
        sequences, items = self._connected()
        if not self._ready:
            self._identity.check()
            for stream, name in ((sequences, SEQUENCES), (items, ITEMS)):
                stream.seek(self._offsets[name])
                stream.check(stream.ends())
            if passed := sequences.skip_deleted():
                log.error(
                    "sequences were deleted before they were learnt, as they were older than "
                    "they are kept for ([privacy] keep_days): going on behind them",
                    topic=self._topics.sequences,
                    offsets={str(partition): count for partition, count in passed.items()},
                )
            self._ready = True
        polled = Polled(log_ends=log_ends)
        polled.sequences = _parsed(parse_sequence, sequences.poll(POLL_MS, enough))
        item_ends = items.ends()
        while not _reached(items.positions(), item_ends):
            more = items.poll(POLL_MS)
            for partition, records in _parsed(announcement, more).items():
                polled.items.setdefault(partition, []).extend(records)
            if not more or sum(map(len, polled.items.values())) >= ITEMS_PER_POLL:
                break
        polled.ends = {SEQUENCES: sequences.ends(), ITEMS: item_ends}
        self._identity.check(idle=not (polled.sequences or polled.items))
        polled.next_offsets = {SEQUENCES: sequences.positions(), ITEMS: items.positions()}
        # A connection that is made anew goes on here, not at what was trained.
        self._offsets = {s: dict(o) for s, o in polled.next_offsets.items()}
        return polled

    def read(
        self, plan: Plan
    ) -> tuple[
        dict[int, list[Record[Item | Withdrawal]]],
        dict[int, list[Record[UserSequence | Forgotten]]],
    ]:
        """Read exactly the ranges of a plan."""
        self._ready = False
        ours = {p: r for p, r in plan.sequences.items() if self._is_ours(p)}
        try:
            sequences, items = self._connected()
            found = (
                _parsed(announcement, items.read(plan.items if self._ranks.leads else {})),
                _parsed(parse_sequence, sequences.read(ours)),
            )
            self._identity.check()
            return found
        except (KafkaError, KafkaUnavailable, TopicEndsBefore) as error:
            raise self._failed(error, "the journal has a micro-batch up to") from error

    def close(self) -> None:
        """Close the connections."""
        for stream in self._streams or ():
            stream.close()
        self._identity.close()
        self._streams, self._ready = None, False


def _reached(positions: Mapping[int, int], ends: Mapping[int, int]) -> bool:
    return all(positions.get(partition, 0) >= end for partition, end in ends.items())


def _parsed(parser: Parser[V], found: Mapping[int, Iterable[Any]]) -> dict[int, list[Record[V]]]:
    """By partition, what kafka-python's records say."""
    return {
        partition: [
            Record(r.offset, parse(parser, r.key, r.value, _place(r)), max(0, r.timestamp))
            for r in records
        ]
        for partition, records in found.items()
    }


def _place(record: Any) -> dict[str, Any]:
    return {"topic": record.topic, "partition": record.partition, "offset": record.offset}
