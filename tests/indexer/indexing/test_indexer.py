"""The indexer without Kafka: handovers and records in, what readers load out."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import orjson
import pytest
from rocksdict import Options, Rdict

import indexer.snapshots.snapshot_writing as writing_module
from indexer.catalogue.property_reader import PropertyReader
from indexer.errors import IndexerError, SnapshotError
from indexer.indexing.config import IndexerConfig
from indexer.indexing.handover_queue import ITEMS_WAIT_S
from indexer.indexing.indexer import Indexer
from indexer.indexing.listing import Announced
from indexer.search.soft_search import SoftSearch
from indexer.snapshots.pointer import read_pointer
from indexer.snapshots.snapshot import Snapshot
from indexer.snapshots.snapshot_reading import load_served, versions
from model.histories import History
from streaming.items import Item, Withdrawal
from tests.colliding import NUMBER, ONE, OTHER
from tests.indexer.driving import (
    EXACT,
    STEPS,
    KillAt,
    announce,
    catch_up,
    drive,
    in_another_process,
    items_of,
    listed_again,
    running,
    serve_first,
)
from tests.indexer.same_snapshots import same_lists, same_snapshots
from tests.indexer.stand_in import StandIn


def served(data_dir: Path) -> Snapshot | None:
    return load_served(data_dir, StandIn.load)


def membership(snapshot: Snapshot) -> dict[int, int]:
    return {
        int(i): c for c, one in enumerate(snapshot.lists.lists) for i in one.present_ids if i >= 0
    }


def test_before_any_handover_nothing_is_served_and_items_wait(tmp_path):
    model = StandIn.make(20)
    with running(tmp_path) as indexer:
        announce(indexer, items_of(model))
        catch_up(indexer)
        assert served(tmp_path) is None
        status = indexer.status()
        assert status.state == "waiting for the first handover"
        assert (status.catalogue_items, status.indexed_items) == (20, 0)
        model.hand_over(tmp_path, 1)
        catch_up(indexer)
        assert len(served(tmp_path).lists) == 20


def test_a_snapshot_says_what_it_holds(tmp_path):
    model = StandIn.make(30)
    with running(tmp_path) as indexer:
        announce(indexer, items_of(model))
        model.hand_over(tmp_path, 3, {"0": 30})
        catch_up(indexer)
        status = indexer.status()
    snapshot = served(tmp_path)
    facts = snapshot.manifest.facts
    assert (facts["version"], facts["handover"], facts["parent"]) == (1, 3, None)
    assert facts["offsets"] == {"items": {"0": 30}, "sequences": {"0": 3}}
    assert facts["catalogue_items"] == facts["indexed_items"] == 30
    assert facts["rebuilt_codes"] == list(range(8)) and facts["reasons"]["0"] == ["first"]
    assert status.version == 1 and status.indexed_items == 30 and status.handover == 3
    orjson.dumps(status.to_json())
    one = snapshot.describe([int(model.item_ids_N[4]), -1])
    assert one[0]["title"] == f"title {model.item_ids_N[4]}" and one[0]["first_seen"] == 104
    assert one[0]["codes"] == model.codes_NQ[4].tolist() and one[0]["events"] == 1
    assert one[1] == {"item_id": -1}


def test_lists_equal_the_assignments_after_every_version(tmp_path):
    model = StandIn.make(120)
    with running(tmp_path, IndexerConfig(keep_versions=3)) as indexer:
        announce(indexer, items_of(model))
        for number in range(1, 7):
            model = model.moved(0.02, number, share=0.1)
            model.hand_over(tmp_path, number)
            catch_up(indexer)
            snapshot = served(tmp_path)
            expected = dict(
                zip(model.item_ids_N.tolist(), model.codes_NQ[:, 0].tolist(), strict=True)
            )
            assert membership(snapshot) == expected
            vectors = snapshot.lists.vectors_of(model.item_ids_N)
            assert np.array_equal(vectors, model.vectors_ND)
        assert versions(tmp_path) == [4, 5, 6]


def files_of(data_dir: Path, version: int) -> list[Path]:
    index = data_dir / "snapshots" / f"{version:08d}" / "index"
    return [index / f"{code:05d}.safetensors" for code in range(8)]


def test_drift_in_one_topic_writes_its_list_anew_and_the_others_are_shared(tmp_path):
    rng = np.random.default_rng(0)
    topics, centroids = np.arange(160) % 8, 10 * np.eye(8)
    model = StandIn(np.arange(1, 161), centroids[topics] + rng.normal(size=(160, 8)), centroids)
    with running(tmp_path) as indexer:
        announce(indexer, items_of(model))
        model.hand_over(tmp_path, 1, {"0": 160})
        catch_up(indexer)
        step = 2 * (topics == 3)[:, None] * np.eye(8)[3]
        vectors = model.vectors_ND + step.astype(np.float32)
        drifted = StandIn(
            model.item_ids_N, vectors, centroids + 2 * np.outer(np.eye(8)[3], np.eye(8)[3])
        )
        assert np.array_equal(drifted.codes_NQ[:, 0], topics)  # none has changed its first code
        drifted.hand_over(tmp_path, 2, {"0": 160}, after=1)
        catch_up(indexer)
    snapshot = served(tmp_path)
    facts = snapshot.facts
    assert facts.rebuilt_codes == [3] and facts.reasons == {"3": ["drift"]}
    assert facts.shared_codes == 7 and facts.codebook_generation == 2
    assert facts.rewritten_items == 20 <= facts.moved_items
    pairs = zip(files_of(tmp_path, 1), files_of(tmp_path, 2), strict=True)
    assert [a.samefile(b) for a, b in pairs] == [code != 3 for code in range(8)]
    assert np.array_equal(snapshot.lists.vectors_of(model.item_ids_N), vectors)


def test_items_that_moved_in_a_calm_codebook_are_in_tails_and_every_file_is_shared(tmp_path):
    model = StandIn.make(160)
    with running(tmp_path) as indexer:
        model.hand_over(tmp_path, 1)
        moved = StandIn(model.item_ids_N, model.vectors_ND.copy(), model.centroids_CD)
        row = int(np.flatnonzero(model.codes_NQ[:, 0] == 3)[0])
        moved.vectors_ND[row] *= 1.01
        moved = StandIn(moved.item_ids_N, moved.vectors_ND, moved.centroids_CD)
        moved.hand_over(tmp_path, 2, after=1)
        catch_up(indexer)
    snapshot = served(tmp_path)
    assert snapshot.facts.rebuilt_codes == [] and snapshot.facts.moved_items == 1
    pairs = zip(files_of(tmp_path, 1), files_of(tmp_path, 2), strict=True)
    assert all(a.samefile(b) for a, b in pairs)
    assert len(snapshot.lists.lists[3].tail) == 1
    assert np.array_equal(snapshot.lists.vectors_of(model.item_ids_N), moved.vectors_ND)


def test_a_new_item_is_retrievable_at_once_and_stays_so_over_a_restart(tmp_path):
    model = StandIn.make(60)
    with running(tmp_path) as indexer:
        serve_first(indexer, tmp_path, model)
        announce(indexer, [Item(999_001, "new", "", "", 5), Item(999_002, "newer", "", "", 6)])
        assert indexer.append_waiting() == 2
        assert indexer.status().indexed_items == 62
    snapshot = served(tmp_path)
    answers = SoftSearch(snapshot.model, snapshot.lists).search(
        [History([], [])], np.zeros(1), 62, codes=8
    )
    assert {999_001, 999_002} <= set(answers.items_BK[0].tolist())
    assert snapshot.describe([999_002])[0]["title"] == "newer"
    with running(tmp_path) as indexer:
        assert indexer.append_waiting() == 0
        assert membership(indexer.served_version.snapshot) == membership(snapshot)
        announce(indexer, [Item(999_003, "newest", "", "", 7)])
        assert indexer.append_waiting() == 1
    assert 999_003 in membership(load_served(tmp_path, StandIn.load, snapshot))


def test_an_item_listed_while_a_version_is_prepared_waits_for_nothing(tmp_path):
    model = StandIn.make(20)
    with running(tmp_path) as indexer:
        serve_first(indexer, tmp_path, model)
        model.hand_over(tmp_path, 2)
        prepared = indexer.prepare(2)
        announce(indexer, [Item(900_001, "early", "", "", 1)])
        assert indexer.append_waiting() == 1  # to what is served meanwhile
        assert served(tmp_path).version == 1 and 900_001 in membership(served(tmp_path))
        announce(indexer, [Item(900_002, "late", "", "", 1)])
        assert indexer.publish(prepared) == 2
        # Never is a version served that lacks what was retrievable before.
        assert served(tmp_path).version == 2
        assert {900_001, 900_002} <= membership(served(tmp_path)).keys()
        assert indexer.append_waiting() == 0
    with running(tmp_path) as indexer:
        assert indexer.append_waiting() == 0
        assert {900_001, 900_002} <= membership(served(tmp_path)).keys()


def test_a_version_prepared_but_not_published_is_taken_up_after_a_crash(tmp_path):
    model = StandIn.make(20)
    with running(tmp_path) as indexer:
        serve_first(indexer, tmp_path, model)
        model.hand_over(tmp_path, 2)
        indexer.prepare(2)
        announce(indexer, [Item(900_001, "new", "", "", 1)])
        indexer.append_waiting()
    with running(tmp_path) as indexer:
        assert indexer.handovers.pending() == []
        assert indexer.append_waiting() == 1
        assert served(tmp_path).version == 2 and 900_001 in membership(served(tmp_path))


def test_an_item_listed_again_with_another_title_moves_to_its_new_code(tmp_path):
    model = StandIn.make(60)
    item = Item(int(model.item_ids_N[5]), "other title", "", "", 5)
    with running(tmp_path) as indexer:
        announce(indexer, items_of(model))
        model.hand_over(tmp_path, 1, {"0": 60})
        catch_up(indexer)
        announce(indexer, [item])
        indexer.append_waiting()
        expected = int(model.embed([item])[1][0, 0])
        assert membership(served(tmp_path))[item.item_id] == expected
        assert len(served(tmp_path).lists) == 60
        # A handover that has not read the new title yet does not undo it.
        model.hand_over(tmp_path, 2, {"0": 60})
        catch_up(indexer)
        assert membership(served(tmp_path))[item.item_id] == expected
        # One that has knows better.
        model.hand_over(tmp_path, 3, {"0": 61})
        catch_up(indexer)
        assert membership(served(tmp_path))[item.item_id] == model.codes_NQ[5, 0]


def test_an_item_announced_again_unchanged_appends_nothing(tmp_path):
    model = StandIn.make(10)
    with running(tmp_path) as indexer:
        serve_first(indexer, tmp_path, model)
        announce(indexer, items_of(model))
        assert indexer.append_waiting() == 0
        assert indexer.status().catalogue_items == 10


def test_appended_items_are_in_the_next_version_even_where_the_code_did_not_drift(tmp_path):
    model = StandIn.make(60)
    with running(tmp_path) as indexer:
        serve_first(indexer, tmp_path, model)
        announce(indexer, [Item(999_001, "new", "", "", 5)])
        indexer.append_waiting()
        model.hand_over(tmp_path, 2)
        catch_up(indexer)
        snapshot = served(tmp_path)
        assert 999_001 in membership(snapshot) and snapshot.appended == ()
        assert snapshot.manifest.facts["rebuilt_codes"] == []


def test_appended_files_are_merged_before_they_become_many(tmp_path):
    model = StandIn.make(30)
    with running(tmp_path, IndexerConfig(max_appended=3)) as indexer:
        serve_first(indexer, tmp_path, model)
        follower = served(tmp_path)
        for n in range(8):
            announce(indexer, [Item(900_000 + n, f"t{n}", "", "", n)])
            indexer.append_waiting()
            follower = load_served(tmp_path, StandIn.load, follower)
            assert 900_000 + n in membership(follower)
            assert len(read_pointer(tmp_path).appended) <= 3
        assert membership(follower) == membership(served(tmp_path))
        assert len(follower.lists) == 38
        named = {one.file for one in read_pointer(tmp_path).appended}
        assert {f"appended/{p.name}" for p in (tmp_path / "appended").iterdir()} == named


def test_whoever_reads_along_forgets_the_files_that_were_merged_into_another(tmp_path):
    model = StandIn.make(30)
    gone = int(model.item_ids_N[3])
    with running(tmp_path, IndexerConfig(max_appended=3)) as indexer:
        serve_first(indexer, tmp_path, model)
        announce(indexer, [Withdrawal(gone)])
        indexer.append_waiting()
        follower = served(tmp_path)
        for n in range(12):
            announce(indexer, [Item(900_000 + n % 9, f"t{n}", "", "", n)])
            indexer.append_waiting()
            follower = load_served(tmp_path, StandIn.load, follower)
            for reader in (follower, indexer.served_version.snapshot):
                assert len(reader.placed) <= 4 and len(reader.items.parts) <= 6
            same_snapshots(follower, served(tmp_path))
            same_snapshots(
                indexer.served_version.snapshot, follower.without(np.array([gone], np.int64))
            )
        assert follower.items.shown([900_000])[0]["title"] == "t9"
        assert len(indexer.served_version.snapshot.lists) == 30 - 1 + 9


def test_a_model_that_has_learnt_no_item_serves_those_that_are_listed(tmp_path):
    codes = StandIn.make(10).centroids_CD
    model = StandIn(np.empty(0, np.int64), np.empty((0, codes.shape[1])), codes)
    with running(tmp_path, EXACT) as indexer:
        announce(indexer, [Item(n, f"t{n}", "", "", n) for n in range(1, 5)])
        for number in (1, 2):
            model.hand_over(tmp_path, number)
            catch_up(indexer)
            announce(indexer, [Item(2, f"another title {number}", "", "", 2)])
        assert indexer.handovers.last_refusal is None
        snapshot = served(tmp_path)
        assert snapshot.version == 2 and sorted(membership(snapshot)) == [1, 2, 3, 4]
        assert [row["events"] for row in snapshot.describe([1, 2])] == [0, 0]


def test_a_poison_record_is_refused_on_record_and_the_rest_goes_on(tmp_path):
    with running(tmp_path) as indexer:
        values = [
            b"not json",
            None,
            json.dumps({"item_id": [7], "listed_at": 1}).encode(),
            json.dumps({"item_id": -7, "listed_at": 1}).encode(),
            Item(7, listed_at=1).to_bytes(),
        ]
        indexer.listen([Announced(0, n, value) for n, value in enumerate(values)], {0: 5})
        assert indexer.status().items_refused == 4
        assert indexer.status().catalogue_items == 1
        assert indexer.store.position == {0: 5}


def test_the_number_of_another_text_is_refused_and_a_number_keeps_the_text_it_had(tmp_path):
    def record(at: int, key: bytes, **fields: object) -> Announced:
        return Announced(0, at, orjson.dumps({"listed_at": 1} | fields) if fields else None, key)

    aside: list[tuple[Announced, str]] = []
    clash = f"item_id '{OTHER}' has the number of another item, '{ONE}'"
    with running(tmp_path, keep_aside=aside.extend) as indexer:
        records = [
            record(0, b"x", item_id=ONE, title="soap"),
            record(1, b"x", item_id=OTHER, title="comb"),
            record(2, OTHER.encode()),  # withdraws it
            record(3, b"x", item_id=NUMBER, title="rose soap"),
            record(4, b"x", item_id=7, external_id="SKU-7"),
            record(5, b"x", item_id=7, external_id="SKU-8"),
        ]
        for one in records[:2]:
            indexer.listen([one], {0: one.offset + 1})
        indexer.listen(records[2:], {0: 6})
        assert aside == [(records[1], clash), (records[2], clash)]
        soap, seven = (indexer.store.listed(number) for number in (NUMBER, 7))
        assert (soap.item.title, soap.item.external_id) == ("rose soap", ONE)
        assert seven.item.external_id == "SKU-8"
        assert indexer.status().items_refused == 2
    with running(tmp_path, keep_aside=aside.extend) as indexer:
        indexer.listen([record(6, ONE.encode()), record(7, b"x", item_id=OTHER)], {0: 8})
        assert indexer.store.listed(NUMBER).item.external_id == OTHER
        assert len(aside) == 2


@pytest.mark.parametrize("how", ["flipped byte", "truncated", "nan", "foreign", "no manifest"])
def test_a_corrupt_handover_is_refused_and_the_last_good_version_goes_on(tmp_path, how):
    model = StandIn.make(40)
    with running(tmp_path) as indexer:
        model.hand_over(tmp_path, 1)
        catch_up(indexer)
        if how == "nan":
            model.moved(np.nan).hand_over(tmp_path, 2)
        else:
            weights = model.hand_over(tmp_path, 2) / "weights.safetensors"
        if how == "flipped byte":
            content = bytearray(weights.read_bytes())
            content[-1] ^= 1
            weights.write_bytes(content)
        elif how == "truncated":
            weights.write_bytes(weights.read_bytes()[:-10])
        elif how == "foreign":
            manifest = weights.parent / "manifest.json"
            manifest.write_text(manifest.read_text().replace('"handover"', '"checkpoint"'))
        elif how == "no manifest":
            (weights.parent / "manifest.json").unlink()
        catch_up(indexer)
        told = tmp_path / "handover" / "refused" / "2"  # by which the trainer begins a new base
        assert json.loads(told.read_text())["number"] == 2
        status = indexer.status()
        assert status.version == 1 and status.handovers_refused == 1
        assert "handover 2: " in status.last_refusal
        assert indexer.handovers.pending() == []
        model.hand_over(tmp_path, 3)
        catch_up(indexer)
        assert served(tmp_path).manifest.facts["handover"] == 3
    with running(tmp_path) as indexer:
        assert indexer.handovers.pending() == []


def test_a_handover_that_is_removed_while_it_is_indexed_is_passed_over(tmp_path):
    model = StandIn.make(20)

    def load_then_remove(directory, manifest, items):
        loaded = StandIn.load(directory, manifest, items)
        if directory.name == "00000002":
            shutil.rmtree(directory)
        return loaded

    with running(tmp_path) as indexer:
        model.hand_over(tmp_path, 1)
        catch_up(indexer)
        indexer._builder._load_model = load_then_remove
        model.hand_over(tmp_path, 2)
        catch_up(indexer)
        assert served(tmp_path).version == 1 and indexer.status().handovers_refused == 0
        model.hand_over(tmp_path, 3)
        catch_up(indexer)
        assert served(tmp_path).manifest.facts["handover"] == 3
        assert served(tmp_path).version == 3  # 2 was reserved, and is not used again


def test_a_full_disk_leaves_the_last_version_served_and_nothing_half_written(tmp_path):
    model = StandIn.make(20)
    with running(tmp_path) as indexer:
        model.hand_over(tmp_path, 1)
        catch_up(indexer)
        model.hand_over(tmp_path, 2)
        with pytest.MonkeyPatch.context() as patch:

            def full(*args):
                raise OSError(28, "No space left on device")

            patch.setattr(writing_module.PlacedItems, "write", full)
            with pytest.raises(OSError, match="No space left"):
                indexer.index_handover(2)
        assert sorted(p.name for p in (tmp_path / "snapshots").iterdir()) == ["00000001"]
        assert served(tmp_path).version == 1
        catch_up(indexer)
        assert served(tmp_path).manifest.facts["handover"] == 2


def test_every_handover_becomes_a_version_but_a_long_backlog_is_skipped(tmp_path):
    model = StandIn.make(20)
    with running(tmp_path, IndexerConfig(max_backlog=3)) as indexer:
        for number in (1, 2, 3):
            model.hand_over(tmp_path, number)
        catch_up(indexer)
        assert served(tmp_path).version == 3
        for number in range(4, 12):
            model.hand_over(tmp_path, number)
        catch_up(indexer)
        assert served(tmp_path).version == 4
        assert served(tmp_path).manifest.facts["handover"] == 11
        assert indexer.status().handovers_skipped == 7


def test_a_handover_of_a_newer_version_is_refused_with_what_to_do(tmp_path):
    model = StandIn.make(20)
    with running(tmp_path) as indexer:
        serve_first(indexer, tmp_path, model)
        model.hand_over(tmp_path, 2, schema_version=2)
        catch_up(indexer)
        status = indexer.status()
        assert status.version == 1 and status.handovers_refused == 1
        assert "written by a newer version of this program" in status.last_refusal
        assert "run that version here" in status.last_refusal


def test_a_handover_waits_for_the_items_that_its_trainer_had_read(tmp_path):
    model = StandIn.make(20)
    with running(tmp_path) as indexer:
        model.hand_over(tmp_path, 1, {"0": 20})
        assert indexer.handovers.due(0.0) is None
        assert indexer.handovers.due(ITEMS_WAIT_S) is None
        assert indexer.handovers.due(ITEMS_WAIT_S + 0.1) == 1  # and no longer
        announce(indexer, items_of(model))
        assert indexer.handovers.due(0.0) == 1
        catch_up(indexer)
        assert indexer.handovers.due(0.0) is None


def test_version_numbers_are_not_reused_when_directories_were_deleted(tmp_path):
    model = StandIn.make(20)
    with running(tmp_path) as indexer:
        for number in (1, 2):
            model.hand_over(tmp_path, number)
            catch_up(indexer)
    shutil.rmtree(tmp_path / "snapshots")
    (tmp_path / "current.json").unlink()
    with running(tmp_path) as indexer:
        assert indexer.served_version is None
        assert indexer.handovers.pending() == [2]  # what was lost is made again of the newest
        model.hand_over(tmp_path, 3)
        catch_up(indexer)
        assert served(tmp_path).version == 3


def test_a_data_directory_of_an_older_version_gets_a_version_of_its_newest_handover(tmp_path):
    model = StandIn.make(20)
    with running(tmp_path) as indexer:
        serve_first(indexer, tmp_path, model)
        model.hand_over(tmp_path, 2)
        catch_up(indexer)
    for version in (1, 2):
        manifest = tmp_path / "snapshots" / f"{version:08d}" / "manifest.json"
        body = json.loads(manifest.read_text())
        body["facts"]["schema_version"] = 1
        manifest.write_text(json.dumps(body))
    (tmp_path / "published.jsonl").unlink()  # they were published so
    former = tmp_path / "appended" / "00000002-0001.parquet"
    former.parent.mkdir()
    former.write_bytes(b"")
    with pytest.raises(SnapshotError, match="another snapshot|older version"):
        served(tmp_path)
    with running(tmp_path) as indexer:
        assert indexer.served_version is None and indexer.handovers.pending() == [2]
        assert not former.exists()
        catch_up(indexer)
        assert served(tmp_path).version == 3 and served(tmp_path).facts.handover == 2
        assert len(served(tmp_path).lists) == 20
        assert indexer.handovers.pending() == []


def test_a_lost_store_is_filled_again_and_numbers_go_on(tmp_path):
    model = StandIn.make(20)
    with running(tmp_path) as indexer:
        serve_first(indexer, tmp_path, model)
        before = membership(served(tmp_path))
    shutil.rmtree(tmp_path / "indexer")
    with running(tmp_path) as indexer:
        assert membership(indexer.served_version.snapshot) == before
        assert indexer.handovers.pending() == []
        announce(indexer, items_of(model))
        assert indexer.append_waiting() == 0
        model.hand_over(tmp_path, 2)
        catch_up(indexer)
        assert served(tmp_path).version == 2


def test_a_store_of_an_older_version_goes_on_without_the_families_that_are_gone(tmp_path):
    directory = tmp_path / "indexer" / "rocksdb"
    model = StandIn.make(20)
    with running(tmp_path) as indexer:
        serve_first(indexer, tmp_path, model)
    former = ("vectors", "codes", "events", "lists")
    families = {name: Options(raw_mode=True) for name in Rdict.list_cf(str(directory))}
    older = Rdict(str(directory), Options(raw_mode=True), column_families=families)
    for name in former:
        older.create_column_family(name, Options(raw_mode=True)).put(b"key", b"value")
    older.close()
    assert set(former) < set(Rdict.list_cf(str(directory)))
    with running(tmp_path) as indexer:
        assert indexer.status().catalogue_items == 20
        assert indexer.handovers.pending() == []
        model.hand_over(tmp_path, 2)
        catch_up(indexer)
        assert served(tmp_path).version == 2
    assert not set(former) & set(Rdict.list_cf(str(directory)))


def test_a_list_file_damaged_on_disk_is_not_carried_into_the_next_version(tmp_path):
    model = StandIn.make(60)
    with running(tmp_path) as indexer:
        model.hand_over(tmp_path, 1)
        catch_up(indexer)
        path = tmp_path / "snapshots" / "00000001" / "index" / "00002.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        model.hand_over(tmp_path, 2)
        catch_up(indexer)
        snapshot = served(tmp_path)
        assert snapshot.manifest.facts["handover"] == 2
        assert snapshot.manifest.facts["shared_codes"] == 0
        assert load_served(tmp_path, StandIn.load).version == snapshot.version
        assert versions(tmp_path) == [1, snapshot.version]


@pytest.mark.parametrize("name", ["index/00002.safetensors", "items-00000001.safetensors"])
def test_a_shared_file_that_the_disk_has_altered_is_found_and_not_linked_again(tmp_path, name):
    model = StandIn.make(60)
    with running(tmp_path) as indexer:
        model.hand_over(tmp_path, 1)
        catch_up(indexer)
        path = tmp_path / "snapshots" / "00000001" / name
        when, content = path.stat(), bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        os.utime(path, ns=(when.st_atime_ns, when.st_mtime_ns))  # nobody wrote to it
        model = model.moved(0.1, 2)
        model.hand_over(tmp_path, 2, after=1)
        catch_up(indexer)
        if name.startswith("items"):  # what follows it cannot be read either: the trainer is told
            assert indexer.status().handovers_refused == 1
            model.hand_over(tmp_path, 3)
            catch_up(indexer)
        snapshot = served(tmp_path)
        assert (
            snapshot.version > 1
            and not (snapshot.path / name).exists()
            or (snapshot.facts.shared_codes == 0)
        )
        assert np.array_equal(snapshot.lists.vectors_of(model.item_ids_N), model.vectors_ND)


def test_protected_versions_and_the_parent_survive_retention(tmp_path):
    model = StandIn.make(20)
    with running(tmp_path, IndexerConfig(keep_versions=1), protected=lambda: {2}) as indexer:
        for number in range(1, 6):
            model.moved(0.5, number).hand_over(tmp_path, number)
            catch_up(indexer)
        assert versions(tmp_path) == [2, 4, 5]


def seen_versions(data_dir: Path, seen: dict[int, str]) -> None:
    """No version ever has two contents, and what the pointer names is always whole."""
    for version in versions(data_dir):
        manifest = data_dir / "snapshots" / f"{version:08d}" / "manifest.json"
        assert seen.setdefault(version, manifest.read_text()) == manifest.read_text()
    if read_pointer(data_dir) is not None:
        served(data_dir)


def content_of(data_dir: Path, indexer: Indexer) -> dict[str, object]:
    """What is served, list by list and item by item, and what the store says of it."""
    snapshot = served(data_dir)
    same_lists(snapshot, indexer.served_version.snapshot)
    found: dict[str, object] = {}
    for code, one in enumerate(snapshot.lists.lists):
        ids = one.present_ids[one.present_ids >= 0]
        order = np.argsort(ids)
        found[f"list {code}"] = ids[order].tolist(), snapshot.lists.vectors_of(ids[order]).tobytes()
    ids = np.sort(snapshot.lists.item_ids_N[snapshot.lists.item_ids_N >= 0])
    found["items"] = snapshot.describe(ids.tolist())
    properties = PropertyReader(data_dir)
    assert len(properties.read()) == len(ids) and properties.position == indexer.store.position
    found["properties"] = [properties.item(one) for one in ids.tolist()]
    return found | {"handover in the store": str(indexer.versions.newest("handover"))}


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> tuple[list[StandIn], dict[str, object]]:
    """Models to be handed over, and the index of the last one and an appended item, from scratch.

    From scratch: by an indexer that never saw another model.
    """
    models = [StandIn.make(40).moved(0.3, n, 0.2) for n in range(1, 7)]
    data_dir = tmp_path_factory.mktemp("scratch")
    models[-1].hand_over(data_dir, len(models))
    with running(data_dir, EXACT) as indexer:
        announce(indexer, [*items_of(models[0]), listed_again(len(models))])
        catch_up(indexer)
        announce(indexer, [Item(900_000, "new", "", "", 1)])
        indexer.append_waiting()
        return models, content_of(data_dir, indexer)


@pytest.mark.parametrize(("when", "nth"), [("before", 1), ("after", 2)])
@pytest.mark.parametrize("step", STEPS)
def test_kill_9_at_any_step_leaves_the_index_that_is_built_from_scratch(
    tmp_path, work, step, when, nth
):
    models, expected = work
    models, handovers = models[-3:], range(4, 7)
    at = KillAt(step, when, 1 if "append" in step else nth)  # the run appends once
    assert in_another_process(tmp_path, models, handovers, at) == -signal.SIGKILL
    seen: dict[int, str] = {}
    seen_versions(tmp_path, seen)
    with running(tmp_path, EXACT) as indexer:
        drive(indexer, tmp_path, models, handovers)
        seen_versions(tmp_path, seen)
        healed = content_of(tmp_path, indexer)
        assert indexer.status().snapshots_published == 3
    assert healed == expected
    numbers = [json.loads(text)["facts"]["handover"] for text in seen.values()]
    assert sorted(numbers) == [4, 5, 6]


def test_kill_9_at_any_time_leaves_the_index_that_is_built_from_scratch(tmp_path, work):
    models, expected = work
    clean, killed = tmp_path / "clean", tmp_path / "killed"
    handovers = range(1, 7)
    began = time.monotonic()
    with running(clean, EXACT) as indexer:
        drive(indexer, clean, models, handovers)
    whole = time.monotonic() - began
    for number, model in enumerate(models, start=1):
        model.hand_over(killed, number, after=number - 1 or None)
    seen: dict[int, str] = {}
    rng = np.random.default_rng(0)
    for _ in range(12):
        in_another_process(killed, models, handovers, seconds=rng.uniform(0, whole))
        seen_versions(killed, seen)
    with running(killed, EXACT) as indexer:
        drive(indexer, killed, models, handovers)
        healed = content_of(killed, indexer)
    assert healed == expected


@pytest.mark.parametrize("setting", ["drift_threshold", "keep_versions", "max_backlog"])
def test_a_setting_that_makes_no_sense_is_refused_by_name(setting):
    with pytest.raises(IndexerError, match=f"indexer.{setting} is -1"):
        IndexerConfig(**{setting: -1})
