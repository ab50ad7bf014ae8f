"""The records of `clicks` and `sequences`, and the JSON form of all that travel over Kafka.

Every record is one JSON object in UTF-8. Users and items are numbers inside, and may be the shop's
texts in the records of `items` and, from schema version 2 on, of `clicks` (`streaming.ids`). Keys
are such ids, too: the user's in `clicks` and `sequences`, the item's in `items`; ours are the
numbers in decimal. Times are milliseconds since 1970-01-01 UTC. Unknown fields are ignored, so a
producer may add some, and of a repeated one the last counts; a missing or retyped field, or one out
of bounds (`streaming.bounds`), is an `EventError` that names it. There is no other rule: whoever
reads a topic parses it here, so that all refuse the same records.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from streaming.bounds import (
    LONGEST_NAME,
    EventError,
    integer,
    integers,
    json_object,
    text,
    time_ms,
    times_ms,
)
from streaming.ids import LONGEST_ID, id_of

SCHEMA_VERSION = 1
TEXT_IDS = 2
"""Schema version from which on a click's `user_id` and `item_id` may be strings."""
HISTORY_LENGTH = 50
"""Longest history that a sequence carries."""

CLICK = "click"
HEARTBEAT = "heartbeat"
"""`event_type` of a record that only carries the replay's clock: it moves the watermark of its
partition and reaches no output topic."""
FORGET = "forget_user"
"""`event_type` of a record by which a user is forgotten: it is no clock and no click."""
NO_CLICKS = frozenset({HEARTBEAT, FORGET})
"""Event types of records of `clicks` that are none."""


@dataclass(frozen=True, slots=True)
class Click:
    """One event of a user on an item; `event_time` in milliseconds.

    `external_user_id` and `external_item_id` are the shop's texts whose numbers `user_id` and
    `item_id` are; empty where the record has a number. A heartbeat has `event_type` "heartbeat"
    and user and item 0, a request to forget a user `event_type` "forget_user" and item 0.
    """

    event_id: str
    user_id: int
    item_id: int
    event_time: int
    event_type: str = CLICK
    schema_version: int = SCHEMA_VERSION
    external_user_id: str = ""
    external_item_id: str = ""

    def key(self) -> bytes:
        """Kafka key: the decimal user id."""
        return b"%d" % self.user_id

    def to_bytes(self) -> bytes:
        """JSON in UTF-8; ids as the shop has them."""
        version = self.schema_version
        if self.external_user_id or self.external_item_id:
            version = max(version, TEXT_IDS)
        return orjson.dumps(
            {
                "event_id": self.event_id,
                "user_id": self.external_user_id or self.user_id,
                "item_id": self.external_item_id or self.item_id,
                "event_time": self.event_time,
                "event_type": self.event_type,
                "schema_version": version,
            }
        )

    @classmethod
    def from_bytes(cls, value: bytes | None) -> Click:
        """Parse a record.

        Raises:
            EventError: naming the field that is missing, has another type, or is out of bounds.
        """
        r = json_object(value)
        version = r.get("schema_version")
        texts = type(version) is int and version >= TEXT_IDS
        event_id = text(r, "event_id", LONGEST_NAME)
        user_id, user_text = id_of(r, "user_id", texts=texts)
        item_id, item_text = id_of(r, "item_id", least=0, texts=texts)
        return cls(
            event_id,
            user_id,
            item_id,
            time_ms(r, "event_time"),
            text(r, "event_type", LONGEST_NAME),
            integer(r, "schema_version"),
            user_text,
            item_text,
        )


@dataclass(frozen=True, slots=True)
class UserSequence:
    """A click together with what its user clicked before it: one training example.

    `position` counts the user's clicks from 1, so a user's first click has position 1 and an
    empty history. `history_items` and `history_times` (milliseconds) have the same length, at
    most `HISTORY_LENGTH`, oldest first, and do not hold the target. `external_user_id` and
    `external_target_id` are the shop's texts of user and target, as far as clicks have said them.
    """

    event_id: str
    user_id: int
    event_time: int
    position: int
    history_items: list[int]
    history_times: list[int]
    target: int
    external_user_id: str = ""
    external_target_id: str = ""

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
        return cls.of(json_object(value))

    @classmethod
    def of(cls, r: dict[str, Any]) -> UserSequence:
        """A record that is parsed already; raises as `from_bytes`."""
        sequence = cls(
            text(r, "event_id", LONGEST_NAME),
            integer(r, "user_id"),
            time_ms(r, "event_time"),
            integer(r, "position", least=1),
            integers(r, "history_items", HISTORY_LENGTH, least=0),
            times_ms(r, "history_times", HISTORY_LENGTH),
            integer(r, "target", least=0),
            text(r, "external_user_id", LONGEST_ID, ""),
            text(r, "external_target_id", LONGEST_ID, ""),
        )
        if len(sequence.history_items) != len(sequence.history_times):
            raise EventError("history_items and history_times differ in length")
        return sequence


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was said of a user before counts no more; their next click is their first.

    On `sequences` the job puts it where it read the request among the user's clicks. `event_id` is
    that of the request, and `dropped` the number of clicks that waited in the job and went with it.
    """

    event_id: str
    user_id: int
    dropped: int = 0
    event_type: str = FORGET

    def to_bytes(self) -> bytes:
        """JSON in UTF-8."""
        return orjson.dumps(self)

    @classmethod
    def of(cls, r: dict[str, Any]) -> Forgotten:
        """A record that is parsed already.

        Raises:
            EventError: naming the field that is missing, has another type, or is out of bounds.
        """
        return cls(
            text(r, "event_id", LONGEST_NAME),
            integer(r, "user_id"),
            integer(r, "dropped", least=0),
        )


def parse_sequence(_: bytes | None, value: bytes | None) -> UserSequence | Forgotten:
    """What a record of `sequences` says: its value says it all.

    Raises:
        EventError: naming the field that breaks the schema.
    """
    record = json_object(value)
    return Forgotten.of(record) if record.get("event_type") == FORGET else UserSequence.of(record)
