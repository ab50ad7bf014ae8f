"""The records that travel over Kafka, and their JSON form.

Every record is one JSON object in UTF-8. Keys of `clicks` and `sequences` are the decimal user
id, keys of `items` the decimal item id. Times are milliseconds since 1970-01-01 UTC. Unknown
fields are ignored, so a producer may add some, and of a repeated one the last counts; a missing or
retyped field, or one out of bounds (`streaming.bounds`), is an `EventError` that names it. There is
no other rule: whoever reads a topic parses it here, so that all refuse the same records.
"""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from streaming.bounds import (
    LONGEST_NAME,
    LONGEST_TEXT,
    EventError,
    integer,
    integers,
    json_object,
    text,
    time_ms,
    times_ms,
)

SCHEMA_VERSION = 1
HISTORY_LENGTH = 50
"""Longest history that a sequence carries."""

CLICK = "click"
HEARTBEAT = "heartbeat"
"""`event_type` of a record that only carries the replay's clock: it moves the watermark of its
partition and reaches no output topic."""


@dataclass(frozen=True, slots=True)
class Item:
    """A catalogue entry, as announced on `items`.

    `category`, `title` and `external_id` (the shop's own id, an ASIN for Amazon) are empty where
    unknown. `listed_at` is in milliseconds.
    """

    item_id: int
    title: str = ""
    category: str = ""
    external_id: str = ""
    listed_at: int = 0

    def key(self) -> bytes:
        """Kafka key: the decimal item id."""
        return b"%d" % self.item_id

    def to_bytes(self) -> bytes:
        """JSON in UTF-8."""
        return orjson.dumps(self)

    @classmethod
    def from_bytes(cls, value: bytes | None) -> Item:
        """Parse a record.

        Raises:
            EventError: naming the field that is missing, has another type, or is out of bounds.
        """
        r = json_object(value)
        return cls(
            integer(r, "item_id", least=0),
            text(r, "title", LONGEST_TEXT, ""),
            text(r, "category", LONGEST_TEXT, ""),
            text(r, "external_id", LONGEST_NAME, ""),
            time_ms(r, "listed_at"),
        )


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """An item is not to be answered any more; it can be listed again."""

    item_id: int


def announcement(key: bytes | None, value: bytes | None) -> Item | Withdrawal:
    """What a record of `items` says: an item is listed, or, without a value, it is withdrawn.

    The key is the decimal item id: by it the topic is compacted, and a withdrawal has nothing else.
    A listing says itself which item it lists, whatever its key.

    Raises:
        EventError: naming the field that breaks the schema.
    """
    if value is None:
        return Withdrawal(_item_id(key))
    return Item.from_bytes(value)


def _item_id(key: bytes | None) -> int:
    if key is None:
        raise EventError("key is missing: whose item is withdrawn?")
    digits = key[:20].decode("ascii", "replace")
    if not digits.isdecimal() or b"%d" % int(digits) != key or int(digits) >= 2**63:
        raise EventError(f"key is {key[:60]!r}, not an item_id")
    return int(digits)


@dataclass(frozen=True, slots=True)
class Click:
    """One event of a user on an item; `event_time` in milliseconds.

    A heartbeat has `event_type` "heartbeat" and user and item 0.
    """

    event_id: str
    user_id: int
    item_id: int
    event_time: int
    event_type: str = CLICK
    schema_version: int = SCHEMA_VERSION

    def key(self) -> bytes:
        """Kafka key: the decimal user id."""
        return b"%d" % self.user_id

    def to_bytes(self) -> bytes:
        """JSON in UTF-8."""
        return orjson.dumps(self)

    @classmethod
    def from_bytes(cls, value: bytes | None) -> Click:
        """Parse a record.

        Raises:
            EventError: naming the field that is missing, has another type, or is out of bounds.
        """
        r = json_object(value)
        return cls(
            text(r, "event_id", LONGEST_NAME),
            integer(r, "user_id"),
            integer(r, "item_id", least=0),
            time_ms(r, "event_time"),
            text(r, "event_type", LONGEST_NAME),
            integer(r, "schema_version"),
        )


@dataclass(frozen=True, slots=True)
class UserSequence:
    """A click together with what its user clicked before it: one training example.

    `position` counts the user's clicks from 1, so a user's first click has position 1 and an
    empty history. `history_items` and `history_times` (milliseconds) have the same length, at
    most `HISTORY_LENGTH`, oldest first, and do not hold the target.
    """

    event_id: str
    user_id: int
    event_time: int
    position: int
    history_items: list[int]
    history_times: list[int]
    target: int

    def key(self) -> bytes:
        """Kafka key: the decimal user id."""
        return b"%d" % self.user_id

    def to_bytes(self) -> bytes:
        """JSON in UTF-8."""
        return orjson.dumps(self)

    @classmethod
    def from_bytes(cls, value: bytes | None) -> UserSequence:
        """Parse a record.

        Raises:
            EventError: naming the field that is missing, has another type, or is out of bounds.
        """
        r = json_object(value)
        sequence = cls(
            text(r, "event_id", LONGEST_NAME),
            integer(r, "user_id"),
            time_ms(r, "event_time"),
            integer(r, "position", least=1),
            integers(r, "history_items", HISTORY_LENGTH, least=0),
            times_ms(r, "history_times", HISTORY_LENGTH),
            integer(r, "target", least=0),
        )
        if len(sequence.history_items) != len(sequence.history_times):
            raise EventError("history_items and history_times differ in length")
        return sequence


def parse_sequence(_: bytes | None, value: bytes | None) -> UserSequence:
    """What a record of `sequences` says: its value says it all."""
    return UserSequence.from_bytes(value)
