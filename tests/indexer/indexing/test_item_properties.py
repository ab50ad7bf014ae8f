"""What `items` says of an item beside its looks: told to readers, and nothing is placed anew."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from indexer.catalogue.property_reader import PropertyReader
from indexer.indexing.indexer import Indexer
from streaming.items import Item, Withdrawal
from tests.indexer.driving import announce, catch_up, items_of, running, serve_first
from tests.indexer.properties import unlisted
from tests.indexer.stand_in import StandIn


@pytest.fixture
def model() -> StandIn:
    return StandIn.make(40)


def said(indexer: Indexer, item_id: int) -> Item | None:
    reader = PropertyReader(indexer.data_dir)
    reader.read()
    assert reader.position == indexer.store.position
    return reader.item(item_id)


def test_a_price_is_told_and_the_item_stays_where_it_is(tmp_path, model):
    one, other = items_of(model)[3:5]
    with running(tmp_path) as indexer:
        serve_first(indexer, tmp_path, model)
        priced = replace(one, attributes={"price": 3.5, "new": True}, listed_at=2_000)
        announce(indexer, [priced, replace(other, state="hidden")])
        before = indexer.served_version
        indexer.append_waiting()
        assert indexer.served_version is before and indexer.status().waiting_items == 0
        assert said(indexer, one.item_id) == priced
        assert unlisted(tmp_path) == [other.item_id] and indexer.status().hidden_items == 1
        assert indexer.store.listed(one.item_id).first_seen == one.listed_at
        model.moved(0.1).hand_over(tmp_path, 2)
        catch_up(indexer)
        assert indexer.served_version.pointer.appended == ()
        assert len(indexer.served_version.snapshot.lists) == 40  # what is hidden goes on
    with running(tmp_path) as indexer:
        assert indexer.status().hidden_items == 1 and indexer.status().waiting_items == 0
        announce(indexer, [other])
        indexer.append_waiting()
        assert unlisted(tmp_path) == [] and indexer.status().hidden_items == 0


def test_of_what_is_withdrawn_by_its_state_all_is_kept_and_of_a_tombstone_nothing(tmp_path, model):
    one, other = items_of(model)[3:5]
    kept = replace(one, state="withdrawn", attributes={"sizes": ["S"]})
    with running(tmp_path) as indexer:
        serve_first(indexer, tmp_path, model)
        announce(indexer, [kept, Withdrawal(other.item_id)])
        indexer.append_waiting()
        assert unlisted(tmp_path) == sorted([one.item_id, other.item_id])
        assert (said(indexer, one.item_id), said(indexer, other.item_id)) == (kept, None)
        assert indexer.status().withdrawn_items == 2 and indexer.status().catalogue_items == 38
        assert len(indexer.served_version.snapshot.lists) == 38
    with running(tmp_path) as indexer:
        announce(indexer, [one])
        indexer.append_waiting()
        assert unlisted(tmp_path) == [other.item_id]
        assert len(indexer.served_version.snapshot.lists) == 39


def test_the_first_type_holds_while_an_item_has_it_and_what_differs_is_set_aside(tmp_path, model):
    one, other, third = items_of(model)[:3]
    aside = []
    with running(tmp_path, keep_aside=aside.extend) as indexer:
        serve_first(indexer, tmp_path, model)
        announce(
            indexer,
            [
                replace(one, attributes={"price": 3}),
                replace(other, attributes={"price": "cheap"}),
                replace(third, attributes={"size": "S"}),
            ],
        )
        indexer.append_waiting()
        [(record, reason)] = aside
        assert record.offset == 41
        assert reason == "attributes.price is a string, and a number at 1 items"
        assert indexer.status().items_refused == 1
        assert said(indexer, other.item_id) == other and said(indexer, third.item_id) is not None
    with running(tmp_path, keep_aside=aside.extend) as indexer:
        announce(
            indexer,
            [replace(one, attributes={"price": "dear"}), replace(other, attributes={"price": "a"})],
        )  # nobody else has a number
        indexer.append_waiting()
        assert len(aside) == 1 and said(indexer, one.item_id).attributes == {"price": "dear"}
        announce(indexer, [Withdrawal(one.item_id), replace(other, attributes={"price": True})])
        indexer.append_waiting()
        assert len(aside) == 1 and said(indexer, other.item_id).attributes == {"price": True}
        many = [Item(900_000 + n, attributes={f"{n}-{m}": 1 for m in range(64)}) for n in range(5)]
        announce(indexer, many)
        assert len(aside) == 3 and "have 194 attributes already" in aside[-1][1]


def test_what_readers_missed_by_a_crash_they_are_told_at_the_next_start(
    tmp_path, model, monkeypatch
):
    items = items_of(model)
    with running(tmp_path) as indexer:
        serve_first(indexer, tmp_path, model)
        announce(indexer, [replace(items[3], state="hidden"), Item(900_000, "new")])  # and dies
    with running(tmp_path) as indexer:
        assert unlisted(tmp_path) == [items[3].item_id]
        assert said(indexer, 900_000).title == "new"
        indexer.store.forget_places(indexer.store.position)
        announce(indexer, [replace(items[4], state="hidden")])
    with running(tmp_path) as indexer:
        assert unlisted(tmp_path) == [one.item_id for one in items[3:5]]


def test_a_store_that_is_filled_anew_tells_nothing_old(tmp_path, model):
    items = items_of(model)
    with running(tmp_path) as indexer:
        serve_first(indexer, tmp_path, model)
        announce(indexer, [replace(items[3], state="hidden")])
        indexer.append_waiting()
    shutil.rmtree(tmp_path / "indexer")
    with running(tmp_path) as indexer:
        indexer.behind = True
        announce(indexer, items)
        indexer.append_waiting()
        assert unlisted(tmp_path) == [items[3].item_id]
        announce(indexer, [replace(items[3], state="hidden")])
        indexer.append_waiting()  # it has caught up with what readers were told
        assert said(indexer, items[3].item_id).state == "hidden"
