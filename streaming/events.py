"""The records that travel over Kafka, and their JSON form.

Every record is one JSON object in UTF-8. Keys of `clicks` and `sequences` are the decimal user
id, keys of `items` the decimal item id. Times are milliseconds since 1970-01-01 UTC. Unknown
fields are ignored, so a producer may add some; a missing or retyped field is an `EventError`
that names it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

SCHEMA_VERSION = 1
HISTORY_LENGTH = 50
"""Longest history that a sequence carries."""

CLICK = "click"
HEARTBEAT = "heartbeat"
"""`event_type` of a record that only carries the replay's clock: it moves the watermark of its
partition and reaches no output topic."""


INTEGERS = frozenset({int})
"""Types of an integer: a truth value is none."""


class EventError(ValueError):
    """A record breaks its schema; the message names the field."""


def _object(value: bytes) -> dict[str, Any]:
    try:
        record = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise EventError(f"not JSON: {error}") from error
    if not isinstance(record, dict):
        raise EventError(f"not a JSON object but {type(record).__name__}")
    return record


def _integer(record: dict[str, Any], field: str) -> int:
    value = record.get(field)
    if type(value) is not int:
        raise EventError(f"{field} is {value!r}, not an integer")
    return value


def _text(record: dict[str, Any], field: str, default: str | None = None) -> str:
    value = record.get(field, default)
    if not isinstance(value, str):
        raise EventError(f"{field} is {value!r}, not a string")
    return value


def _integers(record: dict[str, Any], field: str) -> list[int]:
    value = record.get(field)
    if not isinstance(value, list) or not INTEGERS.issuperset(map(type, value)):
        raise EventError(f"{field} is not a list of integers")
    return value


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
    def from_bytes(cls, value: bytes) -> Item:
        """Parse a record.

        Raises:
            EventError: naming the field that is missing or has another type.
        """
        r = _object(value)
        return cls(
            _integer(r, "item_id"),
            _text(r, "title", ""),
            _text(r, "category", ""),
            _text(r, "external_id", ""),
            _integer(r, "listed_at"),
        )


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
    def from_bytes(cls, value: bytes) -> Click:
        """Parse a record.

        Raises:
            EventError: naming the field that is missing or has another type.
        """
        r = _object(value)
        return cls(
            _text(r, "event_id"),
            _integer(r, "user_id"),
            _integer(r, "item_id"),
            _integer(r, "event_time"),
            _text(r, "event_type"),
            _integer(r, "schema_version"),
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
    def from_bytes(cls, value: bytes) -> UserSequence:
        """Parse a record.

        Raises:
            EventError: naming the field that is missing or has another type.
        """
        r = _object(value)
        sequence = cls(
            _text(r, "event_id"),
            _integer(r, "user_id"),
            _integer(r, "event_time"),
            _integer(r, "position"),
            _integers(r, "history_items"),
            _integers(r, "history_times"),
            _integer(r, "target"),
        )
        if len(sequence.history_items) != len(sequence.history_times):
            raise EventError("history_items and history_times differ in length")
        return sequence
