"""Withdrawn items: in no list and no version, through restarts, until they are listed again."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.catalogue.property_chain import POINTER, PropertyChain
from indexer.catalogue.property_reader import WITHDRAWN
from indexer.errors import SnapshotError
from indexer.indexing.indexer import Indexer
from indexer.indexing.item_store import ItemStore
from indexer.lists.code_lists import CodeLists
from indexer.snapshots.snapshot import Snapshot
from indexer.snapshots.snapshot_reading import load_served
from streaming.items import Item, Withdrawal
from tests.indexer.driving import announce, catch_up, items_of, running, serve_first
from tests.indexer.properties import unlisted
from tests.indexer.stand_in import StandIn


@pytest.fixture
def model() -> StandIn:
    return StandIn.make(40)


def withdraw(indexer: Indexer, *item_ids: int) -> None:
    announce(indexer, [Withdrawal(item_id) for item_id in item_ids])
    indexer.append_waiting()


def served(indexer: Indexer) -> Snapshot:
    assert indexer.served_version is not None
    return indexer.served_version.snapshot


def holds(snapshot: Snapshot, item_id: int) -> bool:
    in_lists = bool(snapshot.lists.locate(np.array([item_id]))[0][0] >= 0)
    assert in_lists == (item_id in snapshot.items.item_ids_N)
    return in_lists


def test_it_leaves_lists_and_store_at_once_and_the_next_version_does_not_hold_it(tmp_path, model):
    gone = int(model.item_ids_N[3])
    with running(tmp_path) as indexer:
        serve_first(indexer, tmp_path, model)
        assert holds(served(indexer), gone)
        withdraw(indexer, gone)
        assert unlisted(tmp_path) == [gone]
        assert not holds(served(indexer), gone)
        assert indexer.store.listed(gone) is None
        status = indexer.status()
        assert status.withdrawn_items == 1 and status.items_refused == 0
        assert status.catalogue_items == status.indexed_items == 39
        model.moved(0.1).hand_over(tmp_path, 2)  # the model knows it
        catch_up(indexer)
        assert not holds(load_served(tmp_path, StandIn.load), gone)
        assert not holds(served(indexer), gone)


def test_an_item_that_was_only_appended_leaves_too(tmp_path, model):
    with running(tmp_path) as indexer:
        serve_first(indexer, tmp_path, model)
        announce(indexer, [Item(900_000, "new"), Item(900_001, "newer")])
        indexer.append_waiting()
        withdraw(indexer, 900_000)
        assert not holds(served(indexer), 900_000) and holds(served(indexer), 900_001)
        assert indexer.status().waiting_items == 0


def test_listed_and_withdrawn_in_one_breath_is_withdrawn_and_the_other_way_round_is_listed(
    tmp_path, model
):
    known = int(model.item_ids_N[0])
    with running(tmp_path) as indexer:
        serve_first(indexer, tmp_path, model)
        announce(
            indexer,
            [
                Item(900_000, "a"),
                Withdrawal(900_000),
                Withdrawal(known),
                Item(known, "again"),
                Withdrawal(123_456),  # nobody has heard of it
            ],
        )
        indexer.append_waiting()
        assert not holds(served(indexer), 900_000) and holds(served(indexer), known)
        assert unlisted(tmp_path) == [123_456, 900_000]
        assert indexer.status().catalogue_items == 40
        [row] = served(indexer).describe([known])
        assert row["title"] == "again"


@pytest.mark.parametrize("changed", [True, False])
def test_listing_it_again_brings_it_back(tmp_path, model, changed):
    items = items_of(model)
    gone = items[3]
    with running(tmp_path) as indexer:
        serve_first(indexer, tmp_path, model)
        withdraw(indexer, gone.item_id)
        again = Item(gone.item_id, "another", "3", "", 9_000) if changed else gone
        announce(indexer, [again])
        indexer.append_waiting()
        assert unlisted(tmp_path) == []
        assert holds(served(indexer), gone.item_id)
        assert holds(load_served(tmp_path, StandIn.load), gone.item_id)
        [row] = load_served(tmp_path, StandIn.load).describe([gone.item_id])
        assert row["title"] == again.title
        assert indexer.status().catalogue_items == indexer.status().indexed_items == 40
        model.moved(0.1).hand_over(tmp_path, 2)
        catch_up(indexer)
        assert holds(served(indexer), gone.item_id)


def test_a_restart_keeps_it_withdrawn(tmp_path, model):
    gone = int(model.item_ids_N[3])
    with running(tmp_path) as indexer:
        serve_first(indexer, tmp_path, model)
        model.moved(0.1).hand_over(tmp_path, 2)
        catch_up(indexer)
        withdraw(indexer, gone)
    (tmp_path / POINTER).unlink()  # it comes back from the store
    with running(tmp_path) as indexer:
        assert unlisted(tmp_path) == [gone]
        assert not holds(served(indexer), gone)


def test_withdrawn_while_a_version_is_built_it_is_not_in_what_is_published(tmp_path, model):
    gone = int(model.item_ids_N[3])
    with running(tmp_path) as indexer:
        serve_first(indexer, tmp_path, model)
        model.moved(0.1).hand_over(tmp_path, 2)
        prepared = indexer.prepare(2)
        withdraw(indexer, gone)
        assert indexer.publish(prepared) == 2
        assert not holds(served(indexer), gone)


def test_a_store_that_is_filled_anew_keeps_it_withdrawn_until_its_tombstone_is_read(
    tmp_path, model
):
    items = items_of(model)
    with running(tmp_path) as indexer:
        serve_first(indexer, tmp_path, model)
        withdraw(indexer, items[3].item_id)
    shutil.rmtree(tmp_path / "indexer")
    with running(tmp_path) as indexer:
        indexer.behind = True
        announce(indexer, items)
        indexer.append_waiting()
        assert unlisted(tmp_path) == [items[3].item_id]
        withdraw(indexer, items[3].item_id)
        indexer.behind = False
        indexer.append_waiting()
        assert unlisted(tmp_path) == [items[3].item_id]
        assert not holds(served(indexer), items[3].item_id)


def test_a_crash_in_a_withdrawal_is_healed_by_the_next_start(tmp_path, model, monkeypatch):
    gone = int(model.item_ids_N[3])

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with running(tmp_path) as indexer:
        serve_first(indexer, tmp_path, model)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(PropertyChain, "append", crash)
            withdraw(indexer, gone)
    with running(tmp_path) as indexer:
        assert unlisted(tmp_path) == [gone]
        assert not holds(served(indexer), gone)


def test_an_item_that_an_older_version_stored_beyond_the_bounds_ends_nothing(tmp_path, model):
    store = ItemStore(tmp_path / "indexer" / "rocksdb")
    unfit = [Item(900_000, "t" * 2_000_000, listed_at=1), Item(900_001, listed_at=2**63)]
    store.announce([(one, 0, n, 0) for n, one in enumerate(unfit)], {0: 2})
    store.close()
    aside = []
    with running(tmp_path, keep_aside=aside.extend) as indexer:
        assert [(one.offset, one.key) for one, _ in aside] == [(0, b"900000"), (1, b"900001")]
        assert indexer.status().items_refused == 2
        serve_first(indexer, tmp_path, model)
        assert indexer.status().catalogue_items == indexer.status().indexed_items == 40
    aside.clear()
    with running(tmp_path, keep_aside=aside.extend) as indexer:
        assert not aside and indexer.status().items_refused == 2


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"items": 7}', b'{"files": [1e99]}'])
def test_a_damaged_pointer_is_named_and_the_indexer_writes_it_anew(tmp_path: Path, model, content):
    gone = int(model.item_ids_N[3])
    with running(tmp_path) as indexer:
        serve_first(indexer, tmp_path, model)
        withdraw(indexer, gone)
    (tmp_path / POINTER).write_bytes(content)
    with pytest.raises(SnapshotError, match=r"properties\.json: damaged"):
        unlisted(tmp_path)
    with running(tmp_path):
        assert unlisted(tmp_path) == [gone]


@pytest.mark.parametrize("filled_anew", [False, True])
def test_what_an_older_program_withdrew_stays_withdrawn(tmp_path: Path, model, filled_anew):
    items = items_of(model)
    gone = items[3].item_id
    if not filled_anew:
        with running(tmp_path) as indexer:
            announce(indexer, [*items, Withdrawal(gone)])
        (tmp_path / POINTER).unlink(missing_ok=True)
    (tmp_path / WITHDRAWN).write_bytes(b'{"items": [%d]}' % gone)
    assert unlisted(tmp_path) == [gone]
    with running(tmp_path) as indexer:
        indexer.behind = True
        assert unlisted(tmp_path) == [gone]
        if filled_anew:
            announce(indexer, items)
            indexer.append_waiting()
            assert unlisted(tmp_path) == [gone]
            withdraw(indexer, gone)
            indexer.behind = False
            indexer.append_waiting()
        assert unlisted(tmp_path) == [gone]
        assert not (tmp_path / WITHDRAWN).exists()


@given(st.data())
def test_lists_without_items_are_the_lists_of_the_others(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    count, codes = data.draw(st.integers(0, 40)), 4
    ids = np.sort(rng.choice(200, count, replace=False)).astype(np.int64)
    of = rng.integers(0, codes, count)
    vectors = rng.normal(size=(count, 3)).astype(np.float32)
    lists = CodeLists.build(ids, of[:, None], vectors, codes)
    left = np.ones(count, bool)
    for _ in range(data.draw(st.integers(1, 4))):
        out = rng.choice(220, data.draw(st.integers(0, 12)))
        lists = lists.without(out)
        left &= ~np.isin(ids, out)
    back = data.draw(st.booleans()) and not left.all()
    if back:  # one of them is listed again
        one = np.flatnonzero(~left)[:1]
        lists = lists.with_items(ids[one], of[one, None], vectors[one])
        left[one] = True
    assert len(lists) == left.sum()
    found, rows = lists.locate(ids)
    assert (found == np.where(left, of, -1)).all() and ((rows >= 0) == left).all()
    assert np.array_equal(lists.vectors_of(ids[left]), vectors[left])
    assert sorted(lists.item_ids_N[lists.item_ids_N >= 0].tolist()) == ids[left].tolist()
