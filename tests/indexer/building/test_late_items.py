"""What is listed while an older version answers is in its answers, whatever was served between."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import orjson
import pytest

from indexer.building import late_items
from indexer.building.late_items import LateItems
from indexer.errors import SnapshotError
from indexer.snapshots.item_table import ItemTable, Rows
from indexer.snapshots.pointer import Pointer, read_pointer
from indexer.snapshots.snapshot import Snapshot
from indexer.snapshots.snapshot_reading import load_version
from model.artifacts.manifest import sha256
from streaming.items import Item, Withdrawal
from tests.indexer.driving import EXACT, announce, catch_up, running, serve_first
from tests.indexer.same_snapshots import same_snapshots
from tests.indexer.stand_in import StandIn

NEW = (900_000, 900_001)


def version(data_dir: Path, number: int) -> Snapshot:
    return load_version(data_dir, number, StandIn.load)


def pointer(data_dir: Path) -> Pointer:
    found = read_pointer(data_dir)
    assert found is not None
    return found


def there(snapshot: Snapshot, *ids: int) -> list[bool]:
    return (snapshot.lists.locate(np.array(ids))[0] >= 0).tolist()


@pytest.fixture
def listed_since(tmp_path: Path):
    """Version 1, and a newer one that holds an item more, with another one appended."""
    model = StandIn.make(40)
    with running(tmp_path, EXACT) as indexer:
        serve_first(indexer, tmp_path, model)
        announce(indexer, [Item(NEW[0], "new", "", "", 1)])
        model.moved(0.1, share=0.1).hand_over(tmp_path, 2, after=1)
        catch_up(indexer)
        announce(indexer, [Item(NEW[1], "newer", "", "", 1)])
        indexer.append_waiting()
        yield indexer, model


def test_a_version_that_is_served_a_second_time_gets_them_again(listed_since, tmp_path):
    late = LateItems(tmp_path)
    once = late.added_to(version(tmp_path, 1), pointer(tmp_path))
    assert there(once, *NEW) == [True, True]
    assert late.added_to(once, pointer(tmp_path)) is once
    again = late.added_to(version(tmp_path, 1), pointer(tmp_path))
    assert there(again, *NEW) == [True, True]


def test_what_was_listed_and_withdrawn_since_is_not_among_them(listed_since, tmp_path):
    indexer, model = listed_since
    announce(indexer, [Withdrawal(NEW[0]), Withdrawal(int(model.item_ids_N[3]))])
    model.moved(0.2, share=0.1).hand_over(tmp_path, 3, after=2)
    catch_up(indexer)
    late = LateItems(tmp_path).added_to(version(tmp_path, 1), pointer(tmp_path))
    assert there(late, *NEW, int(model.item_ids_N[3])) == [False, True, False]


def test_however_many_they_are_they_do_not_pile_up_in_memory(listed_since, tmp_path, monkeypatch):
    monkeypatch.setattr(late_items, "MOST", 4)
    indexer, _ = listed_since
    late, served = LateItems(tmp_path), version(tmp_path, 1)
    for n in range(12):
        announce(indexer, [Item(900_000 + n % 9, f"title {n}", "", "", 1)])
        indexer.append_waiting()
        served = late.added_to(served, pointer(tmp_path))
        assert len(served.placed) <= 4 and len(served.items.parts) <= 6
        at_once = LateItems(tmp_path).added_to(version(tmp_path, 1), pointer(tmp_path))
        same_snapshots(served, at_once)
        assert late.added_to(served, pointer(tmp_path)) is served


def test_a_file_that_is_missing_for_a_moment_loses_nothing(listed_since, tmp_path):
    late, served = LateItems(tmp_path), version(tmp_path, 1)
    path = tmp_path / pointer(tmp_path).appended[0].file
    path.rename(tmp_path / "away")
    with pytest.raises(SnapshotError, match="No such file"):
        late.added_to(served, pointer(tmp_path))
    (tmp_path / "away").rename(path)
    assert there(late.added_to(served, pointer(tmp_path)), *NEW) == [True, True]


def test_an_item_listed_again_as_something_else_is_shown_and_found_as_that(listed_since, tmp_path):
    indexer, model = listed_since
    late = LateItems(tmp_path)
    served = late.added_to(version(tmp_path, 1), pointer(tmp_path))
    one, other = (int(i) for i in model.item_ids_N[:2])
    announce(indexer, [Withdrawal(one)])
    indexer.append_waiting()
    announce(indexer, [Item(one, "another product", "x", "N", 1)])
    indexer.append_waiting()
    after = late.added_to(served, pointer(tmp_path))
    now = indexer.served_version.snapshot
    assert after.items.shown([one, other]) == now.items.shown([one, other])
    assert after.items.shown([one])[0]["title"] == "another product"
    assert after.codes_of(np.array([one])).tolist() == now.codes_of(np.array([one])).tolist()
    assert after.placed[-1].ids_n.tolist() == [one]  # and nothing else was placed anew
    assert len(after.lists) == len(served.lists) and len(after.items) == len(served.items)


def test_what_a_pointer_of_an_older_version_says_otherwise_is_not_believed(listed_since, tmp_path):
    indexer, model = listed_since
    before = pointer(tmp_path)
    announce(indexer, [Item(int(model.item_ids_N[0]), "newest title", "3", "B", 1)])
    model.hand_over(tmp_path, 3)
    catch_up(indexer)
    served = version(tmp_path, 3)
    after = LateItems(tmp_path).added_to(served, before)
    assert after.items.shown(model.item_ids_N[:1].tolist())[0]["title"] == "newest title"


def test_a_version_that_names_a_file_which_it_does_not_have_is_refused_by_type(
    listed_since, tmp_path
):
    path = tmp_path / pointer(tmp_path).path / "manifest.json"
    body = orjson.loads(path.read_bytes())
    body["facts"]["catalogue"].append("nothing.arrow")
    path.write_bytes(orjson.dumps(body))
    at = pointer(tmp_path)
    forged = Pointer(at.version, at.path, sha256(path), at.appended, at.published_at)
    with pytest.raises(SnapshotError, match=r"nothing\.arrow"):
        LateItems(tmp_path).added_to(version_1 := version(tmp_path, 1), forged)
    assert there(version_1, *NEW) == [False, False]


def test_rows_differ_where_anything_that_is_shown_does():
    seen = np.zeros(4, np.int64)
    listed = [Item(n, f"t{n}", "c", f"B{n}", 1) for n in range(4)]
    table = ItemTable().with_rows(Rows.made(listed[:2], seen[:2]))
    table = table.with_rows(Rows.made(listed[2:], seen[2:]))
    changed = [listed[0], Item(1, "t1", "d", "B1", 1), Item(2, "t2", "c", "X", 1)]
    rows = Rows.made([*changed, Item(7, "", "", "", 1)], seen + 5, withdrawn=[3, 8])
    assert rows.ids_n[table.differing(rows)].tolist() == [1, 2, 7]
    assert not ItemTable().differing(Rows.made([], seen[:0])).any()
