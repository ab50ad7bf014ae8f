"""Dead letters: what could not be read, to be looked at, mended and sent again.

Those of `clicks` are written by the job to `clicks.dlq`, those of `items` by the indexer to
`items.dlq`. A record there has key and value as they were read, the producer's own headers, and
five of ours, which say where it stood and why it is there. A producer's header of one of these
names is kept with "original." before it.

Sent again, a dead letter is a new record of its topic, with the timestamp that it had unless the
broker stamps what arrives (`streaming.topics`): if it still is none, it comes back as another dead
letter; if its event has been taken meanwhile, it is a duplicate. So nothing is lost, and nothing
counted twice, by sending once too often. An item that was listed meanwhile is then listed as the
letter has it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson
import structlog
from kafka.errors import KafkaError

from streaming.bounds import EventError, json_object
from streaming.committed_topic import read_all
from streaming.errors import StreamingError
from streaming.ids import id_of
from streaming.kafka_clients import KafkaConnection
from streaming.topics import Topics

log = structlog.get_logger(__name__)

OURS = ("topic", "partition", "offset", "timestamp", "reason")
"""Headers that say where a dead letter comes from."""
ITEMS = "items:"
"""Begins the place of a dead letter of `items`."""
ORIGINAL = "original."
SENT_AGAIN = "dead_letter"
"""Header of a dead letter that was sent again: its partition and offset in `clicks.dlq`."""
NOT_SENT_AGAIN = (SENT_AGAIN, "log_position")
"""The replay tells by the position in its log how far it has got; only its own records may say."""
LARGEST = 8 * 1024 * 1024
PATIENCE_MS = 10_000


@dataclass(frozen=True)
class DeadLetter:
    """One record of `clicks.dlq` or `items.dlq`.

    Attributes:
        place: its partition and offset there, as "partition:offset", with "items:" before it for
            one of `items.dlq`; empty for one that is yet to be written.
        topic: where it was read, with partition and offset.
        partition: see `topic`.
        offset: see `topic`.
        timestamp: the record's own, in ms.
        reason: why it is no click: the field, and what is wrong with it.
        key: as read.
        value: as read.
        headers: the producer's own.
    """

    place: str
    topic: str
    partition: int
    offset: int
    timestamp: int
    reason: str
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()

    def to_json(self) -> bytes:
        """One line; bytes that are no UTF-8 are in base64, in a field that says so."""
        body: dict[str, Any] = {
            "place": self.place,
            "topic": self.topic,
            "partition": self.partition,
            "offset": self.offset,
            "timestamp": self.timestamp,
            "reason": self.reason,
            **_as_text("key", self.key),
            **_as_text("value", self.value),
            "headers": [{"name": name, **_as_text("value", value)} for name, value in self.headers],
        }
        return orjson.dumps(body)

    @classmethod
    def from_json(cls, line: bytes) -> DeadLetter:
        """Read a line of `to_json`, perhaps with another key, value or headers.

        Raises:
            ValueError: saying what is wrong with the line.
        """
        try:
            body = orjson.loads(line)
            return cls(
                str(body["place"]),
                str(body["topic"]),
                int(body["partition"]),
                int(body["offset"]),
                int(body["timestamp"]),
                str(body["reason"]),
                _as_bytes("key", body),
                _as_bytes("value", body),
                tuple((str(h["name"]), _as_bytes("value", h)) for h in body["headers"]),
            )
        except KeyError as error:
            raise ValueError(f"no {error.args[0]!r}") from error
        except (TypeError, AttributeError) as error:
            raise ValueError(f"not as `sparc dlq list --json` writes it ({error})") from error


def _as_text(name: str, value: bytes | None) -> dict[str, str | None]:
    if value is None:
        return {name: None}
    try:
        return {name: value.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(value).decode()}


def _as_bytes(name: str, body: Mapping[str, Any]) -> bytes | None:
    if f"{name}_base64" in body:
        return base64.b64decode(body[f"{name}_base64"], validate=True)
    value = body[name]
    return None if value is None else str(value).encode()


def _from_record(record: Any, kind: str = "") -> DeadLetter:
    said = {name: value for name, value in record.headers if name in OURS}
    kept = []
    for name, value in record.headers:
        if name not in OURS:
            original = name.removeprefix(ORIGINAL)
            kept.append((original if original in OURS else name, value))
    return DeadLetter(
        f"{kind}{record.partition}:{record.offset}",
        _text(said, "topic"),
        _number(said, "partition"),
        _number(said, "offset"),
        _number(said, "timestamp"),
        _text(said, "reason") or "not one of the job's dead letters",
        record.key,
        record.value,
        tuple(kept),
    )


def _text(headers: Mapping[str, bytes | None], name: str) -> str:
    return (headers.get(name) or b"").decode("utf-8", "replace")


def _number(headers: Mapping[str, bytes | None], name: str) -> int:
    text = _text(headers, name)
    return int(text) if text.lstrip("-").isdigit() else -1


def read(kafka: KafkaConnection, topics: Topics) -> Iterator[DeadLetter]:
    """Every dead letter, those of `clicks` first, in the order of their topics.

    Raises:
        KafkaUnavailable: if Kafka does not answer.
    """
    for topic, kind in ((topics.clicks_dlq, ""), (topics.items_dlq, ITEMS)):
        for record in read_all(kafka, topic):
            yield _from_record(record, kind)


def selected(letters: Iterable[DeadLetter], reason: str, places: Iterable[str]) -> list[DeadLetter]:
    """Those whose reason begins so, at those places, if any are named.

    Raises:
        StreamingError: if there is none at a place that is named.
    """
    wanted = set(places)
    found = [d for d in letters if not wanted or d.place in wanted]
    if missing := wanted - {d.place for d in found}:
        raise StreamingError(
            f"no dead letter at {', '.join(sorted(missing))}: `sparc dlq list` shows the places"
        )
    return [d for d in found if d.reason.startswith(reason)]


def with_key(letter: DeadLetter) -> DeadLetter:
    """The same with the key that its value asks for, where that has a readable id."""
    field = "item_id" if letter.place.startswith(ITEMS) else "user_id"
    try:
        number, _ = id_of(json_object(letter.value), field)
    except EventError:
        return letter
    return replace(letter, key=b"%d" % number)


def _headers(letter: DeadLetter) -> list[tuple[str, bytes]]:
    kept = [(n, v or b"") for n, v in letter.headers if n not in NOT_SENT_AGAIN]
    return [*kept, (SENT_AGAIN, letter.place.encode())]


class DeadLetterBox:
    """Writes dead letters to a topic, for a part that refuses records itself."""

    def __init__(self, kafka: KafkaConnection, topic: str) -> None:
        self._kafka = kafka
        self._topic = topic

    def put(self, letters: Iterable[DeadLetter]) -> bool:
        """Write them; whether they are stored. Where Kafka refuses them, that is logged.

        Whoever refuses a record goes on either way: it must not wait for ever for what is only
        good to look at later.
        """
        producer = None
        try:
            # Refusals are rare: a connection for each time is no cost, and none is kept open.
            producer = self._kafka.producer(max_request_size=LARGEST, max_block_ms=PATIENCE_MS)
            sent = [
                producer.send(
                    self._topic,
                    letter.value,
                    letter.key,
                    headers=_said_of(letter),
                    timestamp_ms=letter.timestamp if letter.timestamp >= 0 else None,
                )
                for letter in letters
            ]
            producer.flush(timeout=PATIENCE_MS / 1000)
            for future in sent:
                future.get(timeout=0)
            return True
        except (KafkaError, AssertionError) as error:
            log.error("dead letters are not kept", topic=self._topic, reason=repr(error))
            return False
        finally:
            if producer is not None:
                producer.close(timeout=1)


def _said_of(letter: DeadLetter) -> list[tuple[str, bytes]]:
    """The headers that a dead letter has in its topic."""
    kept = [(f"{ORIGINAL}{n}" if n in OURS else n, v or b"") for n, v in letter.headers]
    ours = (letter.topic, letter.partition, letter.offset, letter.timestamp, letter.reason)
    return kept + [(n, str(v).encode()) for n, v in zip(OURS, ours, strict=True)]


def send(letters: Iterable[DeadLetter], kafka: KafkaConnection, topics: Topics) -> int:
    """Send dead letters to their topics again; returns how many are stored.

    Those with a key go where any client sends that key; those without to the partition that they
    were read from. A header without a value gets an empty one: kafka-python knows no other.

    Raises:
        StreamingError: if Kafka does not answer, or refuses one.
    """
    with kafka.answering():
        producer = kafka.producer(max_request_size=LARGEST)
    try:
        sent = [
            producer.send(
                topics.items if letter.place.startswith(ITEMS) else topics.clicks,
                letter.value,
                letter.key,
                headers=_headers(letter),
                timestamp_ms=letter.timestamp if letter.timestamp >= 0 else None,
                partition=letter.partition if letter.key is None else None,
            )
            for letter in letters
        ]
        producer.flush()
        for future in sent:
            future.get(timeout=0)
        return len(sent)
    except (KafkaError, AssertionError) as error:
        raise StreamingError(
            f"Kafka at {kafka.bootstrap} refused a dead letter ({error})"
        ) from error
    finally:
        producer.close()
