"""Corrupt and foreign snapshots, pointers and appended files are refused, each by a typed error."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexer.errors import SnapshotError
from indexer.indexing.config import IndexerConfig
from indexer.indexing.indexer import Indexer
from indexer.indexing.item_store import ItemStore
from indexer.indexing.listing import Announced
from indexer.snapshots.item_table import ItemTable, read_items, write_items
from indexer.snapshots.pointer import read_pointer, write_pointer
from indexer.snapshots.snapshot import load_served, load_snapshot
from indexer.snapshots.snapshot_facts import SnapshotFacts
from model.artifacts.manifest import publish
from streaming.events import Item
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
        model.hand_over(data_dir, number)
        indexer.index_handover(number)
    indexer.listen([Announced(0, 0, Item(900_000, "new", listed_at=3).to_bytes())], {0: 1})
    indexer.append_waiting()
    store.close()
    return data_dir


@pytest.fixture
def data_dir(published, tmp_path) -> Path:
    # Hard links of the original would be altered along with the copy.
    return Path(shutil.copytree(published, tmp_path / "data"))


FILES = [
    "manifest.json",
    "weights.safetensors",
    "items.parquet",
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
        {"appended": [{"file": "../x.parquet", "sha256": "0" * 64, "position": {}}]},
        {
            "appended": [
                {"file": "appended/00000001-0001.parquet", "sha256": "0" * 64, "position": {}}
            ]
        },
        {
            "appended": [
                {"file": "appended/00000002-0009.parquet", "sha256": "0" * 64, "position": {}}
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
    path = data_dir / "snapshots" / "00000002" / "items.parquet"
    path.rename(tmp_path / "elsewhere.parquet")
    path.symlink_to(tmp_path / "elsewhere.parquet")
    with pytest.raises(SnapshotError, match="outside"):
        load_served(data_dir, StandIn.load)
    path.unlink()
    (tmp_path / "elsewhere.parquet").rename(path)
    appended = data_dir / read_pointer(data_dir).appended[0].file
    appended.rename(tmp_path / "appended.parquet")
    appended.symlink_to(tmp_path / "appended.parquet")
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


def nan_model(directory: Path) -> None:
    StandIn.make(40, codes=4).moved(np.nan).save(directory / "weights.safetensors")


def retyped_items(directory: Path) -> None:
    table = pq.read_table(directory / "items.parquet")
    column = table["item_id"].cast(pa.int32())
    pq.write_table(table.set_column(0, "item_id", column), directory / "items.parquet")


def doubled_items(directory: Path) -> None:
    table = pq.read_table(directory / "items.parquet")
    pq.write_table(pa.concat_tables([table, table]), directory / "items.parquet")


def null_items(directory: Path) -> None:
    table = pq.read_table(directory / "items.parquet")
    nothing = pa.nulls(len(table), pa.int64())
    pq.write_table(table.set_column(3, "first_seen", nothing), directory / "items.parquet")


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
        nan_model,
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


def test_a_snapshot_of_before_facts_had_a_version_is_served_as_it_was(data_dir):
    now = load_snapshot(data_dir / "snapshots" / "00000002", StandIn.load)
    assert now.facts.schema_version == SnapshotFacts.VERSION
    assert now.facts.to_json() == now.manifest.facts
    path = republish(data_dir)
    manifest = path / "manifest.json"
    body = orjson.loads(manifest.read_bytes())
    del body["facts"]["schema_version"]
    manifest.write_bytes(orjson.dumps(body))
    older = load_snapshot(path, StandIn.load).facts
    assert older == now.facts.model_copy(update={"version": 9, "schema_version": 0})


def test_a_snapshot_of_a_newer_version_is_refused_with_what_to_do(data_dir):
    path = republish(data_dir, schema_version=2, event_time_range="yesterday")
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


def test_items_are_read_as_written_and_merged_with_the_newer_row(tmp_path):
    def table(ids: list[int], title: str) -> ItemTable:
        path = tmp_path / "items.parquet"
        path.unlink(missing_ok=True)
        n = len(ids)
        write_items(
            path,
            [Item(i, title, "c", "x") for i in ids],
            np.arange(n * 3).reshape(n, 3) % 4,
            np.ones((n, 5), np.float32),
            np.arange(n),
            np.arange(n) * 2,
        )
        return read_items(path, 3, 4)

    merged = table([1, 5, 9], "old").merged(table([3, 5], "new"))
    assert merged.item_ids_N.tolist() == [1, 3, 5, 9]
    assert [row["title"] for row in merged.describe([1, 3, 5, 9])] == ["old", "new", "new", "old"]
    assert merged.codes_NQ.tolist() == [[0, 1, 2], [0, 1, 2], [3, 0, 1], [2, 3, 0]]
    assert len(table([], "none")) == 0


def test_a_snapshot_is_loaded_and_searched_without_kafka_rocksdict_and_faiss(data_dir):
    program = """
import sys
for name in ("kafka", "rocksdict", "faiss", "structlog"):
    sys.modules[name] = None
from pathlib import Path
import numpy as np
from indexer.snapshots.snapshot import load_served
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
