"""Ids are what the shop wrote: text or numbers, the same in the log, the catalogue and answers."""

from __future__ import annotations

import pytest

from replay.errors import BadLine, ReplayError
from replay.log_file import read_events
from replay.staging import stage
from streaming.ids import numeric_id
from tests.colliding import NUMBER, ONE, OTHER

ISBNS = ["0000000019", "0000000027", "000000003X", "B000000004"]


def staged(write, tmp_path, now_ms, events, items=None):
    return stage(
        write(events, "events"), write(items, "items") if items else None, tmp_path / "data", now_ms
    )


def test_text_ids_are_read_under_the_documented_names(write, now_ms):
    bad: list[BadLine] = []
    text = "user_id,item_id,time\nA000000000000A,B000000001,1400000000\nJosé,18,1400000100\n"
    events = [tuple(e)[:2] for e in read_events(write(text), now_ms, bad.append)]
    assert events == [("A000000000000A", "B000000001"), ("José", "18")]
    assert bad == []


def test_isbns_keep_their_zeros_and_meet_their_metadata(write, tmp_path, now_ms):
    rows = [f"{k % 50 + 1},{ISBNS[k % 4]},5.0,{1400000000 + 60 * k}" for k in range(400)]
    events = "user_id,item_id,rating,timestamp\n" + "\n".join(rows) + "\n"
    items = "item_id,title\n" + "".join(f"{isbn},Book {isbn}\n" for isbn in ISBNS)
    log = staged(write, tmp_path, now_ms, events, items)
    assert (log.events, log.items, log.bad_lines) == (400, 4, 0)
    assert {(i.item_id, i.title, i.external_id) for _, i in log.read_items()} == {
        (numeric_id(isbn), f"Book {isbn}", isbn) for isbn in ISBNS
    }


def test_a_column_with_any_text_in_it_is_text_as_a_whole(write, tmp_path, now_ms):
    head = "user_id,item_id,time\n1,18,1400000000\n"
    numbers = staged(write, tmp_path, now_ms, head + "1,19,1400000001\n")
    assert [i.external_id for _, i in numbers.read_items()] == ["", ""]
    mixed = staged(write, tmp_path, now_ms, head + "1,19X,1400000001\n")
    assert {i.external_id for _, i in mixed.read_items()} == {"18", "19X"}
    # the catalogue and the log are one column
    mixed = staged(write, tmp_path, now_ms, head, "item_id,title\n18,Soap\n019,Comb\n")
    assert {i.external_id for _, i in mixed.read_items()} == {"18", "019"}


def test_the_shops_own_id_beside_a_number_is_kept_or_left_out_whole(write, tmp_path, now_ms):
    events = "user_id,item_id,time\n1,18,1400000000\n"
    items = f"item_id,sku,title\n18,AB-7 <b>,Soap\n19,{'x' * 300},Comb\n20,null,Wig\n"
    log = staged(write, tmp_path, now_ms, events, items)
    assert {i.item_id: i.external_id for _, i in log.read_items()} == {
        18: "AB-7 <b>",
        19: "",
        20: "",
    }


def test_a_log_that_gets_text_later_keeps_the_numbers_it_had(write, tmp_path, now_ms):
    head = "user_id,item_id,time\n1,18,1400000000\n2,19,1400000001\n"
    (before,) = staged(write, tmp_path, now_ms, head).read_events()
    (after,) = staged(write, tmp_path, now_ms, head + "anna,B1,1400000002\n").read_events()
    for name in ("event_ids", "user_ids", "item_ids"):
        assert getattr(after, name)[:2] == getattr(before, name)


@pytest.mark.parametrize("text", ["007", "+7", "7.0", "0x7", "7" * 25, str(2**63), "٧"])
def test_what_is_no_plain_number_of_64_bits_is_text(write, tmp_path, now_ms, text):
    events = f"user_id,item_id,time\n1,{text},1400000000\n1,7,1400000001\n"
    log = staged(write, tmp_path, now_ms, events)
    assert {(i.item_id, i.external_id) for _, i in log.read_items()} == {
        (numeric_id(text), text),
        (7, "7"),
    }
    assert log.bad_lines == 0


@pytest.mark.parametrize("value", [2**53 + 1, 1234567890123456789, 2**63 - 1])
def test_a_number_of_64_bits_keeps_its_value(write, tmp_path, now_ms, value):
    log = staged(write, tmp_path, now_ms, f"user_id,item_id,time\n{value},{value},1400000000\n")
    (batch,) = log.read_events()
    assert (batch.user_ids, batch.item_ids) == ([value], [value])
    assert [i.external_id for _, i in log.read_items()] == [""]


@pytest.mark.parametrize("nobody", ["", "null", "NULL", "NaN", "None", "\\N", "-1"])
def test_nobody_is_no_user(write, now_ms, nobody):
    bad: list[BadLine] = []
    text = f"user_id,item_id,time\nA1,B1,1400000000\n{nobody},B1,1400000000\n"
    assert len(list(read_events(write(text), now_ms, bad.append))) == 1
    assert [b.line for b in bad] == [3]


@pytest.mark.parametrize("others", [(f"{OTHER},7", ""), (f"7,{OTHER}", ""), ("7,7", OTHER)])
def test_two_ids_with_one_number_are_refused_by_name(write, tmp_path, now_ms, others):
    assert numeric_id(ONE) == numeric_id(OTHER) == NUMBER
    clicked, listed = others
    events = f"user_id,item_id,time\n{ONE},{ONE},1400000000\n{clicked},1400000001\n"
    items = f"item_id,title\n{listed},Soap\n" if listed else None
    with pytest.raises(ReplayError, match=f"'{ONE}' and '{OTHER}' have the same number"):
        staged(write, tmp_path, now_ms, events, items)


def test_an_id_has_256_bytes_however_many_letters_these_are(write, now_ms):
    bad: list[BadLine] = []
    names = ["é" * 128, "é" * 129, "x" * 256, "x" * 257, "user:42", "\U0001f600"]
    rows = "".join(f"{name},B1,1400000000\n" for name in names)
    found = list(read_events(write(f"user_id,item_id,time\n{rows}"), now_ms, bad.append))
    assert [e.user for e in found] == [names[i] for i in (0, 2, 4, 5)]
    assert [b.reason for b in bad] == [
        f"user_id is too long: {size} bytes, at most 256" for size in (258, 257)
    ]
