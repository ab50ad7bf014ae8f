"""What comes back is what was published: the registry cannot hand the service another model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.commands.app import app
from deploy.release.decisions import CHAMPION, Decision, decide, read_served
from deploy.release.errors import RegistryError
from deploy.release.ledger import Ledger, RegisteredVersion
from deploy.service.snapshot_follower import SnapshotFollower
from indexer.errors import SnapshotError
from indexer.indexing.config import IndexerConfig
from indexer.indexing.indexer import Indexer
from indexer.indexing.item_store import ItemStore
from indexer.indexing.recovery import last_good
from indexer.search.config import SearchConfig
from indexer.snapshots.pointer import Pointer, snapshot_path, write_pointer
from indexer.snapshots.published import PUBLISHED, published, record
from indexer.snapshots.snapshot_reading import load_version
from model.artifacts.manifest import read_manifest
from tests.deploy.forging import forge
from tests.deploy.registry.test_registry import Registering, serve
from tests.deploy.snapshot_maker import START_MS, Shelf, make_snapshots

SEARCH = SearchConfig(codes=3)


@pytest.fixture
def three(shelf: Shelf) -> Shelf:
    for version in (1, 2, 3):
        shelf.publish(version)
    return shelf


def sparc(shelf: Shelf, *words: str) -> str:
    asked = CliRunner().invoke(app, [*words, "--data-dir", str(shelf.data_dir)])
    assert asked.exit_code == 1, asked.output
    return asked.stderr


def test_a_forged_version_on_disk_is_neither_promoted_nor_rolled_back_to(three: Shelf) -> None:
    forge(three.data_dir / snapshot_path(2))
    for words in (("promote", "2"), ("rollback",), ("rollback", "2")):
        said = sparc(three, *words)
        assert "version 2 is not what was published" in said and "choose another version" in said
    assert read_served(three.data_dir) is None


def test_a_version_that_was_never_published_here_is_refused_with_the_remedy(three: Shelf) -> None:
    foreign = three.data_dir / snapshot_path(9)
    shutil.copytree(three.data_dir / snapshot_path(3), foreign)
    forge(foreign, 9)
    said = sparc(three, "promote", "9")
    assert "version 9 was not published here" in said and "sparc snapshots" in said


@pytest.mark.parametrize("follows", [False, True])
def test_the_service_stays_on_the_last_good_version_and_starts_with_it(
    three: Shelf, follows: bool
) -> None:
    follower = SnapshotFollower(three.data_dir, SEARCH, follow_decisions=follows)
    decide(three.data_dir, Decision(1, "pinned", "person", "good"))
    assert follower.poll() and follower.retriever is not None and follower.retriever.version == 1
    forge(three.data_dir / snapshot_path(2))
    decide(three.data_dir, Decision(2, "pinned", "person", "forged"))
    assert not follower.poll()
    assert follower.retriever.version == 1
    assert "is not what was published" in follower.last_error
    started = SnapshotFollower(three.data_dir, SEARCH, follow_decisions=follows)
    started.poll()
    assert started.retriever is not None and started.retriever.version == 3  # the newest sound one
    assert "is not what was published" in started.last_error


def test_a_pointer_that_vouches_for_a_forged_version_moves_nothing(three: Shelf) -> None:
    follower = SnapshotFollower(three.data_dir, SEARCH)
    assert follower.poll()
    manifest = forge(three.data_dir / snapshot_path(2))
    write_pointer(three.data_dir, Pointer(2, snapshot_path(2), manifest.digest, (), START_MS))
    assert not follower.poll()
    assert follower.retriever is not None and follower.retriever.version == 3


def test_the_indexer_starts_with_the_newest_version_that_it_published(three: Shelf) -> None:
    forge(three.data_dir / snapshot_path(3))
    found = last_good(three.data_dir, lambda: START_MS)
    assert found is not None and found.base.version == 2


def test_a_version_forged_in_the_registry_is_not_followed(shelf: Shelf) -> None:
    registering = Registering(shelf)
    for version in (1, 2, 3):
        shelf.publish(version)
        serve(shelf, version)
        registering.settle()
    downloads = []

    def forged(mlflow_version: int, directory: Path, digest: str) -> None:
        downloads.append(digest)
        raise RegistryError("it was altered there")

    shutil.rmtree(shelf.data_dir / snapshot_path(1))
    registering.registry.download = forged  # type: ignore[method-assign]
    registering.registry.aliases[CHAMPION] = 1
    registering.settle()
    registering.settle()
    served = read_served(shelf.data_dir)
    assert served is not None and (served.version, served.pinned) == (3, False)
    assert set(downloads) == {(published(shelf.data_dir) or {})[1]}


def test_the_record_wins_over_the_list_of_registered_versions(three: Shelf) -> None:
    ledger = Ledger(three.data_dir)
    ledger.add(RegisteredVersion(1, 1, "f" * 64), {})
    shutil.rmtree(three.data_dir / snapshot_path(1))
    asked = []

    def download(mlflow_version: int, directory: Path, digest: str) -> None:
        asked.append(digest)
        shutil.copytree(three._made / snapshot_path(1), directory)

    ledger.bring(1, download)
    assert asked == [(published(three.data_dir) or {})[1]]


def test_the_record_outlives_a_line_that_a_crash_cut_off(tmp_path: Path) -> None:
    assert published(tmp_path) is None
    record(tmp_path, 1, "a" * 64)
    with (tmp_path / PUBLISHED).open("ab") as file:
        file.write(b'{"version": 2, "dig')
    record(tmp_path, 3, "c" * 64)
    record(tmp_path, 3, "d" * 64)  # the first word stands
    assert published(tmp_path) == {1: "a" * 64, 3: "c" * 64}


def test_each_version_is_noted_before_it_appears(tmp_path: Path) -> None:
    make_snapshots(tmp_path, 2)
    noted = published(tmp_path)
    assert noted == {
        v: read_manifest(tmp_path / snapshot_path(v), "snapshot").digest for v in (1, 2)
    }


def test_a_data_directory_that_is_older_than_the_record_gets_one(tmp_path: Path) -> None:
    make_snapshots(tmp_path, 2)
    (tmp_path / PUBLISHED).unlink()
    assert load_version(tmp_path, 2).version == 2
    store = ItemStore(tmp_path / "index")
    try:
        Indexer(IndexerConfig(), store, tmp_path, lambda: START_MS).recover()
    finally:
        store.close()
    forge(tmp_path / snapshot_path(1))
    with pytest.raises(SnapshotError, match="is not what was published"):
        load_version(tmp_path, 1)
