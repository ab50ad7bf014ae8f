"""Ids as shops have them, in the records of Kafka."""

from __future__ import annotations

import orjson
import pytest

from streaming.bounds import EventError
from streaming.events import Click
from streaming.ids import numeric_id, shop_id
from streaming.items import Item, Withdrawal, announcement

NOW = 1_700_000_000_000
CLICK = {"event_id": "e", "event_time": NOW, "event_type": "click", "schema_version": 2}


def click(user: object, item: object, **changes: object) -> Click:
    return Click.from_bytes(orjson.dumps(CLICK | {"user_id": user, "item_id": item} | changes))


@pytest.mark.parametrize("text", ["B00XJ2PQ1C", "user:42", "007", "ü/ 😀", str(2**63), "x" * 256])
def test_a_text_is_known_by_its_number_and_is_not_lost(text: str) -> None:
    one = click(f" {text}\n", text)
    assert (one.user_id, one.item_id) == (numeric_id(text),) * 2
    assert (one.external_user_id, one.external_item_id) == (text, text)
    assert Click.from_bytes(one.to_bytes()) == one
    assert Item.from_bytes(orjson.dumps({"item_id": text, "listed_at": NOW})).external_id == text
    assert announcement(text.encode(), None) == Withdrawal(numeric_id(text), None, text)


def test_a_number_is_the_same_however_it_is_written() -> None:
    assert click("42", " 7 ") == click(42, 7)
    assert click("-42", 7).user_id == -42
    assert shop_id("-0") == (numeric_id("-0"), "-0")
    listed = Item.from_bytes(b'{"item_id":"42","listed_at":1,"external_id":"SKU-1"}')
    assert listed == Item(42, external_id="SKU-1", listed_at=1)


def test_two_ways_to_write_a_letter_are_two_ids() -> None:
    assert click("\u00e9", 1).user_id != click("e\u0301", 1).user_id


@pytest.mark.parametrize(
    ("user", "item", "says"),
    [
        ("", 1, "user_id is 0 bytes long"),
        (1, " \u00a0", "item_id is 0 bytes long"),
        ("é" * 129, 1, "user_id is 258 bytes long"),
        (1, "-8", "item_id -8 is negative"),
        (1.0, 1, "user_id is 1.0, not an integer"),
        (1, None, "item_id is None, not an integer"),
    ],
)
def test_what_is_no_id_is_named(user: object, item: object, says: str) -> None:
    with pytest.raises(EventError, match=says):
        click(user, item)


def test_strings_need_the_second_schema() -> None:
    with pytest.raises(EventError, match="item_id is a string, which needs schema_version 2"):
        click(1, "B1", schema_version=1)
    assert click(1, "B1", schema_version=3).external_item_id == "B1"
    assert orjson.loads(Click("e", 1, 2, NOW).to_bytes())["schema_version"] == 1


def test_an_item_has_one_text() -> None:
    with pytest.raises(EventError, match="external_id is 'B2', and item_id another text"):
        Item.from_bytes(b'{"item_id":"B1","external_id":"B2","listed_at":1}')
