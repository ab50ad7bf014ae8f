"""Corrupt and foreign snapshots, pointers and appended files are refused, each by a typed error."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pytest
from safetensors.numpy import load_file, save_file

from indexer.errors import SnapshotError
from indexer.indexing.config import IndexerConfig
from indexer.indexing.indexer import Indexer
from indexer.indexing.item_store import ItemStore
from indexer.indexing.listing import Announced
from indexer.snapshots.item_table import SCHEMA, ItemTable, Rows, read_batch, write_batch
from indexer.snapshots.pointer import read_pointer, write_pointer
from indexer.snapshots.snapshot_reading import load_served, load_snapshot
from model.artifacts.manifest import publish
from streaming.items import Item
from tests.indexer.stand_in import StandIn


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """A data directory with two snapshots and an appended item."""
    data_dir = tmp_path_factory.mktemp("data")
    model = StandIn.make(40, codes=4)
    store = ItemStore(data_dir / "indexer" / "rocksdb")
    indexer = Indexer(IndexerConfig(), store, data_dir, lambda: 7, StandIn.load)
    indexer.recover()
    for number in (1, 2):
        item = Item(int(model.item_ids_N[number]), f"title {number}", listed_at=3)
        indexer.listen([Announced(0, number, item.to_bytes())], {0: number + 1})
        model.hand_over(data_dir, number, after=number - 1 or None)
        indexer.index_handover(number)
    indexer.listen([Announced(0, 3, Item(900_000, "new", listed_at=3).to_bytes())], {0: 4})
    indexer.append_waiting()
    store.close()
    return data_dir


@pytest.fixture
def data_dir(published, tmp_path) -> Path:
    # Hard links of the original would be altered along with the copy.
    return Path(shutil.copytree(published, tmp_path / "data"))


CATALOGUE = "catalogue-00000001.arrow"
FILES = [
    "manifest.json",
    "weights.safetensors",
    "items-00000001.safetensors",
    "catalogue-00000001.arrow",
    "catalogue-00000002.arrow",
    "placed.arrow",
    "changes.safetensors",
    *(f"index/0000{c}.safetensors" for c in range(4)),
]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("at", [0, 0.5, -1])
def test_one_flipped_byte_in_any_file_is_refused(data_dir, name, at):
    path = data_dir / "snapshots" / "00000002" / name
    content = bytearray(path.read_bytes())
    content[int(at * len(content)) if at >= 0 else -1] ^= 1
    path.write_bytes(content)
    with pytest.raises(SnapshotError):
        load_served(data_dir, StandIn.load)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["truncated", "empty", "missing"])
def test_a_truncated_or_missing_file_is_refused_by_name(data_dir, name, how):
    path = data_dir / "snapshots" / "00000002" / name
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-7] if how == "truncated" else b"")
    with pytest.raises(SnapshotError, match=Path(name).name):
        load_served(data_dir, StandIn.load)


@pytest.mark.parametrize(
    "change",
    [
        {"path": "../elsewhere"},
        {"path": "/etc"},
        {"path": "snapshots/00000001"},
        {"path": "snapshots/../snapshots/00000002"},
        {"version": "two"},
        {"version": 1},
        {"digest": "0" * 64},
        {"digest": "no digest"},
        {"appended": [{"file": "../x.arrow", "sha256": "0" * 64, "position": {}}]},
        {
            "appended": [
                {"file": "appended/00000001-0001.arrow", "sha256": "0" * 64, "position": {}}
            ]
        },
        {
            "appended": [
                {"file": "appended/00000002-0009.arrow", "sha256": "0" * 64, "position": {}}
            ]
        },
        {"appended": [{}]},
        {"appended": None},
    ],
)
def test_a_pointer_that_is_wrong_or_leaves_the_directory_is_refused(data_dir, change):
    path = data_dir / "current.json"
    path.write_bytes(orjson.dumps(orjson.loads(path.read_bytes()) | change))
    with pytest.raises(SnapshotError):
        load_served(data_dir, StandIn.load)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b"{}"])
def test_a_pointer_that_is_no_pointer_is_refused(data_dir, content):
    (data_dir / "current.json").write_bytes(content)
    with pytest.raises(SnapshotError, match=r"current\.json"):
        read_pointer(data_dir)


def test_an_appended_file_with_one_flipped_byte_is_refused(data_dir):
    path = data_dir / read_pointer(data_dir).appended[0].file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(SnapshotError, match="digest"):
        load_served(data_dir, StandIn.load)


def test_a_link_that_leads_outside_is_refused(data_dir, tmp_path):
    path = data_dir / "snapshots" / "00000002" / CATALOGUE
    path.rename(tmp_path / "elsewhere.arrow")
    path.symlink_to(tmp_path / "elsewhere.arrow")
    with pytest.raises(SnapshotError, match="outside"):
        load_served(data_dir, StandIn.load)
    path.unlink()
    (tmp_path / "elsewhere.arrow").rename(path)
    appended = data_dir / read_pointer(data_dir).appended[0].file
    appended.rename(tmp_path / "appended.arrow")
    appended.symlink_to(tmp_path / "appended.arrow")
    with pytest.raises(SnapshotError, match="outside"):
        load_served(data_dir, StandIn.load)


def republish(data_dir: Path, change=lambda directory: None, **facts) -> Path:
    """Snapshot 2 again as version 9, its files changed by `change`, with digests that are right."""
    source = data_dir / "snapshots" / "00000002"
    facts = load_snapshot(source, StandIn.load).manifest.facts | {"version": 9} | facts
    destination = data_dir / "snapshots" / "00000009"

    def write(directory: Path) -> None:
        shutil.copytree(source, directory, dirs_exist_ok=True)
        (directory / "manifest.json").unlink()
        change(directory)

    publish(destination, "snapshot", facts, write)
    return destination


def swap_lists(directory: Path) -> None:
    index = directory / "index"
    (index / "00000.safetensors").rename(index / "x")
    (index / "00001.safetensors").rename(index / "00000.safetensors")
    (index / "x").rename(index / "00001.safetensors")


def another_model(directory: Path) -> None:
    StandIn.make(40, codes=4, dimension=9).save(directory / "weights.safetensors")


def more_codes(directory: Path) -> None:
    StandIn.make(40, codes=5).save(directory / "weights.safetensors")


def other_items(directory: Path) -> None:
    model = StandIn.make(41, codes=4)
    model.segment(np.arange(41)).save(directory / "items-00000001.safetensors")


def nan_means(directory: Path) -> None:
    path = directory / "index" / "00000.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"means": tensors["means"] * np.float32(np.nan)}, path)


def moved_row(directory: Path) -> None:
    path = directory / "changes.safetensors"
    arrays = load_file(path)
    starts = arrays["removed_starts_C"].copy()
    starts[1:] += 1
    removed = np.concatenate([[0], arrays["removed_r"]])
    save_file(arrays | {"removed_r": removed, "removed_starts_C": starts}, path)


def altered(directory: Path, change) -> None:
    path = directory / CATALOGUE
    batch = read_batch(path, SCHEMA)
    path.unlink()
    write_batch(path, change(batch))


def retyped_items(directory: Path) -> None:
    column = pa.array([1, 2], pa.int32())
    altered(directory, lambda batch: pa.RecordBatch.from_arrays([column], names=["item_id"]))


def doubled_items(directory: Path) -> None:
    altered(directory, lambda batch: batch.take([0, 0]))


def null_items(directory: Path) -> None:
    nothing = pa.nulls(1, pa.int64())
    altered(directory, lambda batch: batch.set_column(2, "first_seen", nothing))


def missing_list(directory: Path) -> None:
    (directory / "index" / "00003.safetensors").unlink()


def stowaway(directory: Path) -> None:
    (directory / "code.py").write_text("print('hello')")


@pytest.mark.parametrize(
    "change",
    [
        swap_lists,
        another_model,
        more_codes,
        other_items,
        nan_means,
        moved_row,
        retyped_items,
        doubled_items,
        null_items,
        missing_list,
        stowaway,
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused_though_their_digests_are_right(
    data_dir, change
):
    with pytest.raises(SnapshotError):
        load_snapshot(republish(data_dir, change), StandIn.load)


def test_a_snapshot_under_another_pointer_digest_is_refused(data_dir):
    pointer = read_pointer(data_dir)
    path = republish(data_dir)
    assert load_snapshot(path, StandIn.load).version == 9
    with pytest.raises(SnapshotError, match="another snapshot"):
        load_snapshot(path, StandIn.load, pointer.digest)


@pytest.mark.parametrize("version", [None, 1])
def test_a_snapshot_of_an_older_version_is_refused_with_what_to_do(data_dir, version):
    path = republish(data_dir)
    manifest = path / "manifest.json"
    body = orjson.loads(manifest.read_bytes())
    body["facts"]["schema_version"] = version
    if version is None:
        del body["facts"]["schema_version"]
    manifest.write_bytes(orjson.dumps(body))
    with pytest.raises(SnapshotError, match="written by an older version .* makes a version"):
        load_snapshot(path, StandIn.load)


def test_a_snapshot_of_a_newer_version_is_refused_with_what_to_do(data_dir):
    path = republish(data_dir, schema_version=3, event_time_range="yesterday")
    with pytest.raises(SnapshotError, match="00000009: written by a newer version .* run that"):
        load_snapshot(path, StandIn.load)


@pytest.mark.parametrize("fact", [{"version": "9"}, {"version": 0}, {"code_drift": {"churn": "1"}}])
def test_a_snapshot_whose_facts_are_not_what_they_should_be_is_refused(data_dir, fact):
    with pytest.raises(SnapshotError, match="00000009: its manifest says"):
        load_snapshot(republish(data_dir, **fact), StandIn.load)


@pytest.mark.parametrize("name", FILES)
def test_the_last_good_version_is_served_after_damage_and_a_restart(data_dir, name):
    path = data_dir / "snapshots" / "00000002" / name
    path.write_bytes(path.read_bytes()[:-1])
    store = ItemStore(data_dir / "indexer" / "rocksdb")
    indexer = Indexer(IndexerConfig(), store, data_dir, lambda: 7, StandIn.load)
    indexer.recover()
    indexer.append_waiting()
    store.close()
    snapshot = load_served(data_dir, StandIn.load)
    assert snapshot.version == 1
    assert 900_000 in snapshot.items.item_ids_N


def test_a_pointer_is_written_only_if_readers_would_take_it(data_dir):
    from dataclasses import replace

    pointer = read_pointer(data_dir)
    write_pointer(data_dir, pointer)
    assert read_pointer(data_dir) == pointer
    with pytest.raises(SnapshotError):
        write_pointer(data_dir, replace(pointer, path="../x"))


def rows(path: Path, ids: list[int], title: str, withdrawn: list[int]) -> Rows:
    Rows.made([Item(i, title, "c", "x") for i in ids], np.array(ids), withdrawn).write(path)
    return Rows.read(path)


def test_the_newest_row_of_an_item_is_shown_and_a_withdrawn_one_is_not(tmp_path):
    table = ItemTable.of(
        [
            rows(tmp_path / "base", [9, 1, 5], "old", []),
            rows(tmp_path / "first", [3, 5], "new", [9]),
            rows(tmp_path / "none", [], "", []),
            rows(tmp_path / "second", [9], "again", [1]),
        ]
    )
    assert table.item_ids_N.tolist() == [3, 5, 9] and len(table) == 3
    shown = [row["title"] for row in table.describe([1, 3, 5, 9, 77])]
    assert shown == ["", "new", "new", "again", ""]
    assert table.first_seen(np.array([9, 1, 5])).tolist() == [9, 0, 5]
    packed = ItemTable.of([table.packed()])
    assert packed.describe([1, 3, 5, 9]) == table.describe([1, 3, 5, 9]) and len(packed) == 3
    assert len(table.without(np.array([3, 4]))) == 2


def test_a_snapshot_is_loaded_and_searched_without_kafka_rocksdict_and_faiss(data_dir):
    program = """
import sys
for name in ("kafka", "rocksdict", "faiss", "structlog"):
    sys.modules[name] = None
from pathlib import Path
import numpy as np
from indexer.snapshots.snapshot_reading import load_served
from indexer.search.soft_search import SoftSearch
from model.histories import History
from tests.indexer.stand_in import StandIn
served = load_served(Path(sys.argv[1]), StandIn.load)
answers = SoftSearch(served.model, served.lists).search([History([], [])], np.zeros(1), 41)
print((answers.items_BK >= 0).sum())
"""
    run = [sys.executable, "-c", program, str(data_dir)]
    root = Path(__file__).resolve().parents[3]
    result = subprocess.run(run, capture_output=True, text=True, cwd=root)
    assert result.stdout == "41\n", result.stderr
