from __future__ import annotations

from types import SimpleNamespace

import pytest

from streaming.dead_letters import DeadLetter, _from_record, selected, with_key
from streaming.errors import StreamingError
from streaming.ids import numeric_id


def letter(place: str = "0:1", **changes) -> DeadLetter:
    fields = {
        "topic": "clicks",
        "partition": 2,
        "offset": 17,
        "timestamp": 5,
        "reason": "user_id: missing",
        "key": b"7",
        "value": b'{"user_id":7}',
    }
    return DeadLetter(place, **(fields | changes))


@pytest.mark.parametrize(
    ("key", "value"),
    [(b"7", b"{}"), (None, None), (b"\xff", b"\x00\xff"), (b"", "é".encode())],
)
def test_a_line_of_json_keeps_every_byte(key, value):
    one = letter(key=key, value=value, headers=(("a", b"\xfe"), ("b", None), ("a", b"")))
    assert DeadLetter.from_json(one.to_json()) == one


def test_what_is_wrong_with_a_line_is_said():
    with pytest.raises(ValueError, match="no 'value'"):
        DeadLetter.from_json(letter().to_json().replace(b'"value"', b'"walue"'))
    with pytest.raises(ValueError, match="sparc dlq list --json"):
        DeadLetter.from_json(b"[]")


def test_a_record_tells_where_it_stood_and_what_the_producer_said():
    headers = [
        ("original.reason", b"theirs"),
        ("origin", b"x"),
        ("topic", b"clicks"),
        ("partition", b"3"),
        ("offset", b"9"),
        ("timestamp", b"-1"),
        ("reason", b"value: not JSON"),
    ]
    record = SimpleNamespace(partition=0, offset=4, key=b"k", value=b"v", headers=headers)
    found = _from_record(record)
    assert (found.place, found.topic, found.partition, found.offset) == ("0:4", "clicks", 3, 9)
    assert (found.timestamp, found.reason) == (-1, "value: not JSON")
    assert found.headers == (("reason", b"theirs"), ("origin", b"x"))


def test_a_record_that_is_none_of_the_jobs_is_shown_too():
    record = SimpleNamespace(partition=0, offset=4, key=None, value=None, headers=[])
    assert _from_record(record).reason == "not one of the job's dead letters"


def test_they_are_chosen_by_place_and_by_reason():
    letters = [letter("0:1"), letter("0:2", reason="value: not JSON"), letter("0:3")]
    assert [d.place for d in selected(letters, "", ())] == ["0:1", "0:2", "0:3"]
    assert [d.place for d in selected(letters, "user_id", ["0:2", "0:3"])] == ["0:3"]
    with pytest.raises(StreamingError, match="no dead letter at 1:9"):
        selected(letters, "", ["0:1", "1:9"])


def test_the_key_follows_from_the_value_where_that_can_be_read():
    assert with_key(letter(key=None)).key == b"7"
    assert with_key(letter(key=None, value=b"{")).key is None
    assert with_key(letter(key=b"x", value=b'{"user_id":[7]}')).key == b"x"
    assert with_key(letter(key=b"x", value=b'{"user_id":"ada"}')).key == b"%d" % numeric_id("ada")
