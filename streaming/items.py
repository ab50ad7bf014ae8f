"""The records of `items`: an item is listed as it is now, or it is withdrawn.

Their form is that of all records (`streaming.events`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

import orjson

from streaming.bounds import (
    LONGEST_NAME,
    LONGEST_TEXT,
    EventError,
    json_object,
    text,
    time_ms,
)
from streaming.ids import id_of, shop_id
from streaming.item_attributes import Value, as_said, attributes

State = Literal["listed", "hidden", "withdrawn"]
STATES: tuple[State, ...] = get_args(State)
"""Of an item, by their numbers: answered; kept and learnt, not answered; on its way out."""


@dataclass(frozen=True, slots=True)
class Item:
    """A catalogue entry, as announced on `items`.

    `category`, `title` and `external_id` (the shop's own id, an ASIN for Amazon) are empty where
    unknown. `listed_at` is in milliseconds. It is answered from `available_from` on, and from
    `available_until` on no more (milliseconds, None for no bound), while it is listed.
    """

    item_id: int
    title: str = ""
    category: str = ""
    external_id: str = ""
    listed_at: int = 0
    state: State = "listed"
    available_from: int | None = None
    available_until: int | None = None
    attributes: dict[str, Value] = field(default_factory=dict, hash=False)

    def key(self) -> bytes:
        """Kafka key: the decimal item id."""
        return b"%d" % self.item_id

    def record(self) -> dict[str, Any]:
        """Fields and values; what a record need not say is left out."""
        found: dict[str, Any] = {
            "item_id": self.item_id,
            "title": self.title,
            "category": self.category,
            "external_id": self.external_id,
            "listed_at": self.listed_at,
        }
        if self.state != "listed":
            found["state"] = self.state
        if self.available_from is not None:
            found["available_from"] = self.available_from
        if self.available_until is not None:
            found["available_until"] = self.available_until
        if self.attributes:
            found["attributes"] = self.attributes
        return found

    def to_bytes(self) -> bytes:
        """JSON in UTF-8."""
        record = self.record()
        if self.attributes:
            record["attributes"] = as_said(self.attributes)
        return orjson.dumps(record)

    def looks_like(self, other: Item) -> bool:
        """Whether it is found by the same: title, category and the shop's id."""
        mine = self.title, self.category, self.external_id
        return mine == (other.title, other.category, other.external_id)

    @classmethod
    def from_bytes(cls, value: bytes | None) -> Item:
        """Parse a record.

        Raises:
            EventError: naming the field that is missing, has another type, or is out of bounds.
        """
        r = json_object(value)
        item_id, name = id_of(r, "item_id", least=0)
        return cls(
            item_id,
            text(r, "title", LONGEST_TEXT, ""),
            text(r, "category", LONGEST_TEXT, ""),
            _external_id(r, name),
            time_ms(r, "listed_at"),
            _state(r),
            *_available(r),
            attributes(r["attributes"]) if "attributes" in r else {},
        )


def _state(record: dict[str, Any]) -> State:
    state = record.get("state", "listed")
    if state not in STATES:
        raise EventError(f"state is {str(state)[:60]!r}, not one of {', '.join(STATES)}")
    return cast(State, state)


def _available(record: dict[str, Any]) -> tuple[int | None, int | None]:
    first, last = (
        time_ms(record, name) if record.get(name) is not None else None
        for name in ("available_from", "available_until")
    )
    require_in_order(first, last)
    return first, last


def require_in_order(available_from: int | None, available_until: int | None) -> None:
    """Refuse an item that is never available.

    Raises:
        EventError: if it ends before it begins.
    """
    if available_until is not None and available_until <= (available_from or 0):
        raise EventError(
            f"available_until {available_until} is not after available_from {available_from}"
        )


def _external_id(record: dict[str, Any], name: str) -> str:
    """The shop's own id: that by which the item is named, where it is named by a text."""
    external_id = text(record, "external_id", LONGEST_NAME, "")
    if name and external_id not in ("", name):
        raise EventError(f"external_id is {external_id[:60]!r}, and item_id another text")
    return external_id or name


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """An item is not to be answered any more; it can be listed again.

    `item` is what is kept of it; a tombstone keeps nothing. `external_id` is the shop's text, where
    one is known.
    """

    item_id: int
    item: Item | None = None
    external_id: str = ""


def announcement(key: bytes | None, value: bytes | None) -> Item | Withdrawal:
    """What a record of `items` says: an item is there, or it is withdrawn.

    It is withdrawn by a record without a value, or by one whose state says so. The key is the
    item's id, in decimal or the shop's text: by it the topic is compacted, and a record without a
    value has nothing else. Another says itself which item it is about, whatever its key.

    Raises:
        EventError: naming the field that breaks the schema.
    """
    if value is None:
        number, name = item_of_key(key)
        return Withdrawal(number, None, name)
    item = Item.from_bytes(value)
    if item.state == "withdrawn":
        return Withdrawal(item.item_id, item, item.external_id)
    return item


def item_of_key(key: bytes | None) -> tuple[int, str]:
    """The item that a key of `items` names: its number, and its text where that is the key.

    Raises:
        EventError: if it is none, or written as no id is: the topic is compacted by it.
    """
    if key is None:
        raise EventError("key is missing: whose item is withdrawn?")
    try:
        name = key.decode()
        number, text = shop_id(name)
    except ValueError:
        number, text, name = -1, "", ""
    if number < 0 or name != (text or str(number)):
        raise EventError(f"key is {key[:60]!r}, not an item_id")
    return number, text
