"""Whatever is wrong with a version, it is refused by a typed error before lists are made of it, and
the version that answers goes on answering.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pytest
from safetensors.numpy import load_file, save_file

from deploy.service.snapshot_follower import SnapshotFollower
from indexer.errors import SnapshotError
from indexer.indexing.config import IndexerConfig
from indexer.indexing.indexer import Indexer
from indexer.indexing.item_store import ItemStore
from indexer.indexing.listing import Announced
from indexer.indexing.recovery import pointer_to
from indexer.search.config import SearchConfig
from indexer.search.query import Query
from indexer.snapshots.item_table import write_batch
from indexer.snapshots.pointer import POINTER, read_pointer, write_pointer
from indexer.snapshots.snapshot_reading import load_served, load_snapshot
from model.artifacts.manifest import publish, read_manifest, sha256
from streaming.items import Item
from tests.deploy.snapshot_maker import make_snapshots
from tests.indexer.stand_in import StandIn

CODES = 4
FILES = [
    "manifest.json",
    "weights.safetensors",
    "items-00000002.safetensors",
    "changes.safetensors",
    "placed.arrow",
    "catalogue-00000002.arrow",
    *(f"index/0000{code}.safetensors" for code in range(CODES)),
]
NEW = "snapshots/00000002"


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """Versions 1 and 2 of different models, 1 being served."""
    data_dir = tmp_path_factory.mktemp("data")
    store = ItemStore(data_dir / "indexer" / "rocksdb")
    indexer = Indexer(IndexerConfig(), store, data_dir, lambda: 7, StandIn.load)
    indexer.recover()
    for number in (1, 2):
        item = Item(900_000 + number, "new", listed_at=3)
        indexer.listen([Announced(0, number, item.to_bytes())], {0: number + 1})
        StandIn.make(40, codes=CODES, seed=number).hand_over(data_dir, number)
        indexer.index_handover(number)
    store.close()
    write_pointer(
        data_dir, pointer_to(load_snapshot(data_dir / "snapshots/00000001", StandIn.load), 7)
    )
    return data_dir


Spoil = Callable[[Path], None]


def flipped(name: str, at: float) -> Spoil:
    def spoil(data_dir: Path) -> None:
        path = data_dir / NEW / name
        content = bytearray(path.read_bytes())
        content[min(int(at * len(content)), len(content) - 1)] ^= 1
        path.write_bytes(content)

    return spoil


def truncated(name: str) -> Spoil:
    def spoil(data_dir: Path) -> None:
        path = data_dir / NEW / name
        path.write_bytes(path.read_bytes()[:-9])

    return spoil


def linked_outside(name: str) -> Spoil:
    def spoil(data_dir: Path) -> None:
        path = data_dir / NEW / name
        path.rename(data_dir / "elsewhere")
        path.symlink_to(data_dir / "elsewhere")

    return spoil


def named_outside(data_dir: Path) -> None:
    """The manifest names a file that is there and has the digest, but not in the directory."""
    shutil.copy(data_dir / NEW / "weights.safetensors", data_dir / "snapshots" / "weights")
    path = data_dir / NEW / "manifest.json"
    body = orjson.loads(path.read_bytes())
    body["files"]["../weights"] = body["files"]["weights.safetensors"]
    path.write_bytes(orjson.dumps(body))


def republished(change: Spoil) -> Spoil:
    """Version 2 anew, changed, under digests that are right: only its content betrays it."""

    def spoil(data_dir: Path) -> None:
        path = data_dir / NEW
        facts = read_manifest(path, "snapshot").facts
        path.rename(data_dir / "before")

        def write(directory: Path) -> None:
            shutil.copytree(data_dir / "before", directory, dirs_exist_ok=True)
            (directory / "manifest.json").unlink()
            change(directory)

        publish(path, "snapshot", facts, write)

    return spoil


def in_list(alter: Callable[[dict[str, np.ndarray]], None], code: int = 2) -> Spoil:
    def change(directory: Path) -> None:
        path = directory / "index" / f"0000{code}.safetensors"
        tensors = {name: value.copy() for name, value in load_file(path).items()}
        alter(tensors)
        save_file(tensors, path)

    return republished(change)


def huge_list(directory: Path) -> None:
    header = orjson.dumps(
        {
            "item_ids": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]},
            "vectors": {"dtype": "F32", "shape": [1, 2**40], "data_offsets": [8, 8 + 2**42]},
        }
    )
    path = directory / "index" / "00002.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))


def wide_list(directory: Path) -> None:
    path = directory / "index" / "00002.safetensors"
    tensors = load_file(path)
    for name in ("vectors", "means"):
        tensors[name] = np.zeros((len(tensors[name]), 9000), np.float32)
    save_file(tensors, path)


def huge_weights(directory: Path) -> None:
    header = orjson.dumps(
        {"vectors": {"dtype": "F32", "shape": [2**20, 2**20], "data_offsets": [0, 2**42]}}
    )
    content = len(header).to_bytes(8, "little") + header
    (directory / "weights.safetensors").write_bytes(content)


def wide_codes(directory: Path) -> None:
    path = directory / "placed.arrow"
    table = pa.ipc.open_file(path.read_bytes()).read_all()
    wide = pa.array([[0] * 9000] * len(table), pa.list_(pa.int16(), 9000))
    batch = table.set_column(table.schema.get_field_index("codes"), "codes", wide).to_batches()
    write_batch(path, (batch or [pa.RecordBatch.from_pylist([], wide.type)])[0])


def index_of_version_1(directory: Path) -> None:
    shutil.rmtree(directory / "index")
    shutil.copytree(directory.parent / "00000001" / "index", directory / "index")


def model_of_other_codes(directory: Path) -> None:
    StandIn.make(40, codes=CODES + 1).save(directory / "weights.safetensors")


def model_of_other_dimension(directory: Path) -> None:
    StandIn.make(40, codes=CODES, dimension=9).save(directory / "weights.safetensors")


def items_of_version_1(directory: Path) -> None:
    path = directory.parent / "00000001" / "items-00000001.safetensors"
    shutil.copy(path, directory / "items-00000002.safetensors")


def in_items(field: str, value: int) -> Spoil:
    """A number in the segment of items."""

    def change(directory: Path) -> None:
        path = directory / "items-00000002.safetensors"
        tensors = {name: x.copy() for name, x in load_file(path).items()}
        tensors[field].ravel()[1] = value
        save_file(tensors, path)

    return republished(change)


def in_changes(field: str, value: int) -> Spoil:
    """One number more in what the lists differ by from their files."""

    def change(directory: Path) -> None:
        path = directory / "changes.safetensors"
        arrays = {name: x.copy() for name, x in load_file(path).items()}
        arrays[field] = np.append(arrays[field], value)
        for starts in {"removed_r": ["removed_starts_C"], "tail_t": ["tail_starts_C"]}.get(
            field, []
        ):
            arrays[starts][-1] += 1
        save_file(arrays, path)

    return republished(change)


def twice_in_catalogue(directory: Path) -> None:
    path = directory / "catalogue-00000002.arrow"
    batch = pa.ipc.open_file(path.read_bytes()).get_batch(0)
    write_batch(path, batch.take([0, 0]))


def in_two_lists(directory: Path) -> None:
    index = directory / "index"
    first, second = (load_file(index / f"0000{code}.safetensors") for code in (1, 2))
    second["item_ids"][0] = first["item_ids"][0]
    save_file(second, index / "00002.safetensors")


def not_a_number(value: float) -> Callable[[dict[str, np.ndarray]], None]:
    def alter(tensors: dict[str, np.ndarray]) -> None:
        tensors["means"][0, 1] = value  # vectors are finite when they are written

    return alter


def twice(tensors: dict[str, np.ndarray]) -> None:
    tensors["item_ids"][1] = tensors["item_ids"][0]


WRONG: dict[str, Spoil] = {
    **{f"byte {at} of {n} flipped": flipped(n, at) for n in FILES for at in (0.0, 0.5, 1.0)},
    **{f"{name} truncated": truncated(name) for name in FILES},
    **{f"{name} leads outside": linked_outside(name) for name in FILES[1:]},
    "manifest names a file outside": named_outside,
    "list declares 2^40 dimensions": republished(huge_list),
    "list of 9000 dimensions": republished(wide_list),
    "weights declare 4 TiB": republished(huge_weights),
    "placed items of 9000 codes each": republished(wide_codes),
    "index of another version": republished(index_of_version_1),
    "model of another number of codes": republished(model_of_other_codes),
    "model of another dimension": republished(model_of_other_dimension),
    "items of another version": republished(items_of_version_1),
    "a code that the model has not": in_items("codes_nQ", 9000),
    "an item under another id": in_items("ids_n", 77_777),
    "an item twice in the segment": in_items("rows_n", 0),
    "a removed row that is not there": in_changes("removed_r", 9999),
    "an item in a tail and in a file": in_changes("tail_t", 1),
    "an item in a tail that the model has not": in_changes("tail_t", 77_777),
    "an absent item that is there": in_changes("absent_a", 77_777),
    "NaN in a list": in_list(not_a_number(np.nan)),
    "infinity in a list": in_list(not_a_number(-np.inf)),
    "item twice in a list": in_list(twice),
    "item in two lists": republished(in_two_lists),
    "item twice in the catalogue": republished(twice_in_catalogue),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_version_is_refused_and_the_last_good_one_answers(published, tmp_path, wrong):
    data_dir = Path(shutil.copytree(published, tmp_path / "data"))
    follower = SnapshotFollower(data_dir, SearchConfig(), load_model=StandIn.load)
    follower.poll()
    before = follower.retriever
    assert before is not None and before.version == 1
    good = load_snapshot(data_dir / NEW, StandIn.load)
    wrong(data_dir)
    pointer = pointer_to(good, 8)
    if not wrong.__qualname__.startswith(("flipped", "truncated")):
        # whoever forged the content would forge the pointer's digest, too
        pointer = replace(pointer, digest=sha256(data_dir / NEW / "manifest.json"))
    write_pointer(data_dir, pointer)
    with pytest.raises(SnapshotError):
        load_served(data_dir, StandIn.load)
    assert not follower.poll() and follower.failures == 1 and follower.last_error
    assert follower.retriever is before
    assert len(before.answer(Query([], k=10)).items) == 10


@pytest.mark.parametrize(
    "change",
    [
        {"item_tower": {"dimension": 2**31}},
        {"quantizer": {"codes": 2**31}},
        {"quantizer": {"levels": 4}},
    ],
    ids=str,
)
def test_a_model_that_declares_other_sizes_than_it_has_is_refused_before_they_are_allocated(
    tmp_path, change
):
    make_snapshots(tmp_path, 1)
    path = tmp_path / "snapshots/00000001"
    manifest = read_manifest(path, "snapshot")
    load_snapshot(path)
    config = manifest.facts["model"]["config"]
    for name, value in change.items():
        config[name] = config[name] | value if isinstance(value, dict) else value

    def write(directory: Path) -> None:
        shutil.copytree(path, directory, dirs_exist_ok=True)
        (directory / "manifest.json").unlink()

    forged = tmp_path / "snapshots/00000002"
    publish(forged, "snapshot", manifest.facts, write)
    with pytest.raises(SnapshotError, match="weights"):
        load_snapshot(forged)


@pytest.mark.parametrize(
    "change",
    [
        {"path": "../data/snapshots/00000002"},
        {"path": "/snapshots/00000002"},
        {"path": "snapshots/00000001/../00000002"},
        {"appended": [{"file": "../x.parquet", "sha256": "0" * 64, "position": {}}]},
        {"version": 3},
        {"digest": "f" * 64},
    ],
    ids=lambda change: "-".join(f"{k} {v}" for k, v in change.items())[:40],
)
def test_a_pointer_that_leaves_the_directory_or_names_another_version_moves_nothing(
    published, tmp_path, change
):
    data_dir = Path(shutil.copytree(published, tmp_path / "data"))
    follower = SnapshotFollower(data_dir, SearchConfig(), load_model=StandIn.load)
    follower.poll()
    good = load_snapshot(data_dir / NEW, StandIn.load)
    write_pointer(data_dir, pointer_to(good, 8))
    body = orjson.loads((data_dir / POINTER).read_bytes()) | change
    (data_dir / POINTER).write_bytes(orjson.dumps(body))
    assert not follower.poll() and follower.failures == 1
    assert follower.retriever is not None and follower.retriever.version == 1
    write_pointer(data_dir, pointer_to(good, 9))
    assert follower.poll() and follower.retriever.version == 2
    assert read_pointer(data_dir).version == 2
