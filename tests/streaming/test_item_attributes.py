"""Items with attributes, states and times: what is taken, and what is refused by name."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.bounds import LATEST_MS, EventError
from streaming.item_attributes import EARLIEST_MS, attributes
from streaming.items import STATES, Item, Withdrawal, announcement

NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=16).filter(
    lambda name: name != "category"
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = st.one_of(
    TEXTS,
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
    st.lists(TEXTS, max_size=5),
    st.integers(EARLIEST_MS, LATEST_MS).map(lambda ms: {"time": ms}),
)


@given(
    st.dictionaries(NAMES, VALUES, max_size=8),
    st.sampled_from(STATES),
    st.none() | st.integers(0, 99),
    st.none() | st.integers(100, 200),
)
def test_an_item_is_read_as_it_was_written(given_attributes, state, first, last):
    one = Item(7, "t", "c", "x", 5, state, first, last, given_attributes)
    assert Item.from_bytes(one.to_bytes()) == one
    assert hash(one) == hash(Item.from_bytes(one.to_bytes()))
    said = announcement(one.key(), one.to_bytes())
    assert said == (Withdrawal(7, one, "x") if state == "withdrawn" else one)


@given(st.integers(EARLIEST_MS, LATEST_MS))
def test_a_time_that_is_said_as_text_is_read_to_the_millisecond_by_whoever_reads(ms):
    text = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)).isoformat()
    told = attributes({"released": {"time": text}})
    assert told == {"released": {"time": ms}}
    assert Item.from_bytes(Item(7, attributes=told).to_bytes()).attributes == told


@pytest.mark.parametrize("time", ["9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+14:00"])
def test_a_time_beyond_the_years_is_refused(time):
    with pytest.raises(EventError, match=r"attributes\.a\.time is no"):
        attributes({"a": {"time": time}})


def test_what_need_not_be_said_is_left_out():
    assert Item(7, "t", "c", "x", 5).to_bytes() == (
        b'{"item_id":7,"title":"t","category":"c","external_id":"x","listed_at":5}'
    )


def test_times_are_told_from_texts_and_brought_to_milliseconds():
    told = {"a": {"time": "2026-11-29T10:00:00Z"}, "b": "2026-11-29T10:00:00Z"}
    told |= {"c": {"time": "1965-01-01T01:00:00.5+01:00"}, "d": {"time": 1_764_410_400_000}}
    assert attributes(told) == {
        "a": {"time": 1_795_946_400_000},
        "b": "2026-11-29T10:00:00Z",
        "c": {"time": -157_766_399_500},
        "d": {"time": 1_764_410_400_000},
    }


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"state": "gone"}, "state is 'gone', not one of listed, hidden, withdrawn"),
        ({"state": None}, "state is 'None'"),
        ({"available_from": "now"}, "available_from is 'now', not an integer"),
        ({"available_from": 7, "available_until": 7}, "available_until 7 is not after"),
        ({"attributes": []}, "attributes is list, not an object"),
        ({"attributes": {str(n): 1 for n in range(65)}}, "attributes holds 65, at most 64"),
        ({"attributes": {"": 1}}, "no name of 1 to 64 bytes"),
        ({"attributes": {"ä" * 33: 1}}, "no name of 1 to 64 bytes"),
        ({"attributes": {"category": "x"}}, "attributes.category: .* cannot have this name"),
        ({"attributes": {"a\n": "x"}}, "cannot have this name"),
        ({"attributes": {"a": None}}, "attributes.a is no text"),
        ({"attributes": {"a": {"time": 1, "zone": 2}}}, "attributes.a is no text"),
        ({"attributes": {"a": {"time": "noon"}}}, "attributes.a.time is no milliseconds"),
        ({"attributes": {"a": {"time": "2026-11-29T10:00:00"}}}, "with its zone"),
        ({"attributes": {"a": {"time": 1_764_410_400}}}, "attributes.a.time .* looks like seconds"),
        ({"attributes": {"a": {"time": True}}}, "attributes.a.time"),
        ({"attributes": {"a": "x" * 1025}}, "attributes.a is 1025 bytes long"),
        ({"attributes": {"a": ["x"] * 65}}, "attributes.a holds 65, at most 64"),
        ({"attributes": {"a": ["x", 1]}}, "attributes.a.1 is int, not a string"),
        ({"attributes": {"a": 2**63}}, "attributes.a does not fit"),
    ],
)
def test_what_is_none_is_refused_by_name(more, why):
    with pytest.raises(EventError, match=why):
        Item.from_bytes(orjson.dumps({"item_id": 7, "listed_at": 5, **more}))
