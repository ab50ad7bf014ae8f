from __future__ import annotations

from pathlib import Path

from replay.announced_items import AnnouncedItems, is_announced, note_announced
from replay.staging import stage
from streaming.ids import numeric_id
from streaming.items import Item

SOAP, COMB = Item(10, "Soap"), Item(11, "Comb")


def announced(*records: tuple[Item, bytes | None, bool]) -> AnnouncedItems:
    found = AnnouncedItems()
    for item, value, ours in records:
        found.add(item.key(), value, ours=ours)
    found.settle()
    return found


def test_the_last_record_of_an_item_counts():
    new = Item(10, "Better soap")
    found = announced((SOAP, SOAP.to_bytes(), True), (SOAP, new.to_bytes(), True))
    assert new in found
    assert SOAP not in found
    assert COMB not in found


def test_what_another_producer_said_last_stands():
    withdrawn = announced((SOAP, SOAP.to_bytes(), True), (SOAP, None, False))
    assert SOAP in withdrawn
    assert Item(10, "Better soap") in withdrawn
    assert COMB in announced((COMB, b"the shop's own", False))
    found = announced((SOAP, SOAP.to_bytes(), True))
    named = Item(numeric_id("B00X"), "Wig")
    found.add(b"B00X", None, ours=False)
    found.settle()
    assert named in found


def test_records_that_are_no_items_are_passed_over():
    found = announced()
    found.add(None, b"x", ours=True)
    found.add(b" soap", b"x", ours=True)
    found.add(b"9" * 40, b"x", ours=True)
    found.settle()
    assert SOAP not in found


def test_a_catalogue_is_noted_by_its_content(tmp_path: Path, write, now_ms):
    events = write("user_id,item_id,time\n1,10,1369699200\n")
    items = write("item_id,title\n10,Soap\n", "items.csv")
    log = stage(events, items, tmp_path, now_ms)
    assert not is_announced(log)
    note_announced(log)
    assert is_announced(log)
    grown = write("user_id,item_id,time\n1,10,1369699200\n2,10,1369699300\n")
    assert is_announced(stage(grown, items, tmp_path, now_ms))
    items = write("item_id,title\n10,Sope\n", "items.csv")
    assert not is_announced(stage(grown, items, tmp_path, now_ms))
