"""Clicks and items as a shop writes them, and the records that they become.

Ids are the shop's own, texts or numbers, and so they are in the records (`streaming.ids`); inside
they are numbers, the same as those of a replayed log. A click without an `event_id` gets one from
user, item, second and type, as one of a log does: said again, it is the same click. Without a time
it happened now; then an `Idempotency-Key` of the request tells a repetition from another click.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictInt,
    StrictStr,
    WithJsonSchema,
    model_validator,
)

from deploy.http.shop_ids import number_of
from deploy.http.times import TimeMs
from replay import identity
from streaming.bounds import LARGEST_ID, LONGEST_NAME, LONGEST_TEXT, EventError
from streaming.events import CLICK, NO_CLICKS, Click
from streaming.ids import shop_id
from streaming.item_attributes import (
    LONGEST_ATTRIBUTE,
    LONGEST_VALUE,
    MOST_ATTRIBUTES,
    MOST_ENTRIES,
    attributes,
)
from streaming.items import Item, State, require_in_order
from streaming.topics import Topics

MOST_EVENTS = 1000
"""Clicks of one request; so many items, too."""
LONGEST_RECORD = 1_000_000
"""Bytes of an item's record: with key and headers a producer takes no more than a mebibyte, and one
that is longer fails the transaction of others, too."""
AHEAD_MS = 60_000
"""A time further ahead of this machine's clock is a mistake; the job refuses some minutes."""


class Record(NamedTuple):
    """What is written into a topic; no value withdraws an item."""

    topic: str
    key: bytes
    value: bytes | None
    partition: int | None = None


def _a_user(given: int | str) -> int | str:
    if not -LARGEST_ID - 1 <= number_of(given) <= LARGEST_ID:
        raise ValueError("an id is a text, or a number of 64 bits")
    return given


def _an_item(given: int | str) -> int | str:
    if not 0 <= number_of(given) <= LARGEST_ID:
        raise ValueError("an item's id is a text, or a number from 0 to 2^63 - 1")
    return given


def _short(most: int) -> AfterValidator:
    def check(text: str) -> str:
        if (size := len(text.encode())) > most:
            raise ValueError(f"{size} bytes long, at most {most}")
        return text

    return AfterValidator(check)


def _a_type(text: str) -> str:
    if text in NO_CLICKS:
        raise ValueError(f"{text!r} is no type of a shop's event")
    return text


UserId = Annotated[StrictInt | StrictStr, AfterValidator(_a_user)]
ItemId = Annotated[StrictInt | StrictStr, AfterValidator(_an_item)]
Name = Annotated[StrictStr, Field(min_length=1), _short(LONGEST_NAME)]
Text = Annotated[StrictStr, _short(LONGEST_TEXT)]


_TEXT = {"type": "string", "maxLength": LONGEST_VALUE}
_VALUE = {
    "anyOf": [
        _TEXT,
        {"type": "number"},
        {"type": "boolean"},
        {"type": "array", "items": _TEXT, "maxItems": MOST_ENTRIES},
        {
            "type": "object",
            "properties": {"time": {"type": ["integer", "string"]}},
            "required": ["time"],
            "additionalProperties": False,
        },
    ]
}


def _schema_of(*values: dict[str, Any]) -> WithJsonSchema:
    return WithJsonSchema(
        {
            "type": "object",
            "propertyNames": {"minLength": 1, "maxLength": LONGEST_ATTRIBUTE},
            "maxProperties": MOST_ATTRIBUTES,
            "additionalProperties": {"anyOf": [*_VALUE["anyOf"], *values]},
        }
    )


def _some_attributes(given: dict[str, Any]) -> dict[str, Any]:
    """Those of a change, of which null takes one away."""
    gone = {name: value for name, value in given.items() if value is None}
    kept = attributes({name: value for name, value in given.items() if value is not None})
    attributes(dict.fromkeys(gone, ""))  # their names
    return kept | gone


Attributes = Annotated[dict[StrictStr, Any], AfterValidator(attributes), _schema_of()]
SomeAttributes = Annotated[
    dict[StrictStr, Any], AfterValidator(_some_attributes), _schema_of({"type": "null"})
]


class EventIn(BaseModel):
    """A user's click on an item."""

    model_config = ConfigDict(extra="forbid")

    user_id: UserId = Field(description="As the shop calls it, text or number.")
    item_id: ItemId = Field(description="As the shop calls it; it need not be listed yet.")
    event_id: Name | None = Field(None, description="The same id again makes no second click.")
    event_type: Annotated[Name, AfterValidator(_a_type)] = CLICK
    event_time: TimeMs | None = Field(None, description="Milliseconds since 1970; else now.")


class ItemIn(BaseModel):
    """An item of the catalogue; listed again, it is all that is said of it now."""

    model_config = ConfigDict(extra="forbid")

    item_id: ItemId = Field(description="As the shop calls it, text or number.")
    title: Text = ""
    category: Text = ""
    state: State = Field("listed", description="Hidden: learnt from, in no answer.")
    available_from: TimeMs | None = Field(None, description="Milliseconds since 1970.")
    available_until: TimeMs | None = Field(None, description="From then on in no answer.")
    attributes: Attributes = Field({}, description="What filters ask for, each of one type.")

    @model_validator(mode="after")
    def _is_ever_available(self) -> ItemIn:
        require_in_order(self.available_from, self.available_until)
        return self


class ItemPatch(BaseModel):
    """What changes of an item; null takes back what was said."""

    model_config = ConfigDict(extra="forbid")

    title: Text | None = None
    category: Text | None = None
    state: State | None = None
    available_from: TimeMs | None = None
    available_until: TimeMs | None = None
    attributes: SomeAttributes | None = Field(
        None, description="These, and the others stay; null takes one away."
    )


class EventsIn(BaseModel):
    """Clicks: all of them are taken, or none."""

    model_config = ConfigDict(extra="forbid")

    events: list[EventIn] = Field(min_length=1, max_length=MOST_EVENTS)


class ItemsIn(BaseModel):
    """Items: all of them are taken, or none."""

    model_config = ConfigDict(extra="forbid")

    items: list[ItemIn] = Field(min_length=1, max_length=MOST_EVENTS)


class EventsTaken(BaseModel):
    """What Kafka has now."""

    accepted: int
    event_ids: list[str] = Field(description="In the order of the request.")


class ItemsTaken(BaseModel):
    """What Kafka has now."""

    accepted: int


class UserForgotten(BaseModel):
    """What Kafka has now."""

    accepted: int
    event_id: str = Field(description="Of the request.")


def clicks(events: Sequence[EventIn], now_ms: int, request_key: str) -> list[Click]:
    """Clicks of a request that came at `now_ms`; `request_key` is the client's, or empty.

    Raises:
        EventError: naming the click whose time lies ahead of the clock.
    """
    found = []
    for at, event in enumerate(events):
        time_ms = now_ms if event.event_time is None else event.event_time
        if time_ms > now_ms + AHEAD_MS:
            raise EventError(
                f"events.{at}.event_time: {time_ms - now_ms} ms ahead of this machine's clock"
            )
        (user_id, user), (item_id, item) = map(_named, (event.user_id, event.item_id))
        if event.event_id is not None:
            name = event.event_id
        elif event.event_time is not None:
            name = identity.event_id(
                user or str(user_id), item or str(item_id), time_ms, event.event_type
            )
        elif request_key:
            words = (at, event.user_id, event.item_id, event.event_type, request_key)
            said = "|".join(map(str, words))
            name = hashlib.sha256(said.encode()).hexdigest()[:32]
        else:
            name = uuid.uuid4().hex
        found.append(
            Click(
                name,
                user_id,
                item_id,
                time_ms,
                event.event_type,
                external_user_id=user,
                external_item_id=item,
            )
        )
    return found


def _named(given: int | str) -> tuple[int, str]:
    """The number of an id, and its text where it is one."""
    return shop_id(given) if isinstance(given, str) else (given, "")


def item(given: ItemIn, now_ms: int) -> Item:
    """An item that is listed now."""
    number, external = _named(given.item_id)
    return Item(
        number,
        given.title,
        given.category,
        external,
        now_ms,
        given.state,
        given.available_from,
        given.available_until,
        given.attributes,
    )


def of_clicks(found: Sequence[Click], topics: Topics) -> list[Record]:
    """The records of clicks."""
    return [Record(topics.clicks, click.key(), click.to_bytes()) for click in found]


def of_items(found: Sequence[Item], topics: Topics) -> list[Record]:
    """The records of items.

    Raises:
        EventError: naming the item whose record no producer would take.
    """
    said = [Record(topics.items, one.key(), one.to_bytes()) for one in found]
    for item, one in zip(found, said, strict=True):
        if (size := len(one.value or b"")) > LONGEST_RECORD:
            name = item.external_id or item.item_id
            raise EventError(
                f"item {name!r}: all that is said of it is {size} bytes, at most {LONGEST_RECORD}"
            )
    return said


def withdrawal(item_id: int, topics: Topics) -> Record:
    """The record that withdraws an item."""
    return Record(topics.items, b"%d" % item_id, None)
