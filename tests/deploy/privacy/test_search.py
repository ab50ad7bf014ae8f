"""Where a user is found, by what a place holds of them and of nobody else."""

from __future__ import annotations

import orjson
import pytest

from deploy.privacy.config import PrivacyConfig
from deploy.privacy.search import User
from streaming.events import FORGET, Click, Forgotten, UserSequence
from streaming.ids import numeric_id

ADA = User(numeric_id("ada"), "ada")
SEVEN = User(7, "7")


@pytest.mark.parametrize("user", [ADA, SEVEN])
def test_records_of_a_user_are_told_from_those_of_others(user: User) -> None:
    number = user.number
    click = Click("e", number, 70, 1)
    sequence = UserSequence("e", number, 1, 1, [], [], 7)
    for one in (click, sequence, Click("f", number, 0, 1, FORGET)):
        assert user.is_meant(b"", one.to_bytes())
    assert user.is_meant(b"", Forgotten("f", number).to_bytes())
    assert user.is_meant(click.key(), None)
    assert user.is_meant(None, b'{"user_id": %d, broken' % number)
    other = Click("7 ada", 70, 7, 7)
    assert not user.is_meant(other.key(), other.to_bytes())
    assert not user.is_meant(None, b"[1, 2]")
    assert not user.is_meant(None, None)


def test_texts_of_shops_are_found_as_they_were_written() -> None:
    body = {"event_id": "e", "user_id": "ada", "item_id": "x", "schema_version": 2}
    assert ADA.is_meant(None, orjson.dumps(body))
    assert ADA.is_meant(None, orjson.dumps({"user_id": 5, "external_user_id": "ada"}))
    assert ADA.is_meant(None, orjson.dumps(body | {"user_id": " ada "}))
    assert not ADA.is_meant(None, orjson.dumps(body | {"user_id": "adam"}))
    assert ADA.is_meant(None, orjson.dumps(body | {"user_id": ["ada"]}))  # refused, and kept
    assert ADA.is_meant(None, b'{"user_id": "ada", "item')
    assert not ADA.is_meant(None, b'{"user_id": "adam", "item')


def test_logs_mention_a_user_where_they_say_so() -> None:
    said = b'user_id=7 user_id: 70 "user_id": "7", item 7; user 7'
    assert SEVEN.mentions(said) == 3
    assert ADA.mentions(said) == 0


@pytest.mark.parametrize("days", [-1, 0.01, 40_000, float("nan")])
def test_days_that_make_no_sense_are_refused(days: float) -> None:
    with pytest.raises(ValueError, match="privacy.keep_days"):
        PrivacyConfig(days)
