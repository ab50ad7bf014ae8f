"""What a pointer or a journal names is on the disk before it is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from indexer.indexing.config import IndexerConfig
from indexer.indexing.indexer import Indexer
from indexer.indexing.item_store import ItemStore
from indexer.indexing.listing import Announced
from model.training.journal import RocksJournal
from streaming.durable_files import PARTIAL, write_atomically
from streaming.items import Item
from tests.indexer.stand_in import StandIn


class Disk:
    """Remembers which names a power cut would take: those whose directory has not been synced."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.unsafe: set[Path] = set()
        self.named_unsafely: list[tuple[str, set[Path]]] = []
        rename, mkdir, fsync = os.rename, os.mkdir, os.fsync

        def seen_rename(source, destination, **options):
            rename(source, destination, **options)
            if Path(destination).name == "current.json":
                self.named_unsafely.append(("current.json", set(self.unsafe)))
            self.unsafe.discard(Path(source))
            self._add(Path(destination))

        def seen_mkdir(path, *arguments, **options):
            mkdir(path, *arguments, **options)
            self._add(Path(path))

        def seen_fsync(descriptor):
            fsync(descriptor)
            synced = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            self.unsafe = {path for path in self.unsafe if path.parent != synced}

        monkeypatch.setattr(os, "rename", seen_rename)
        monkeypatch.setattr(os, "mkdir", seen_mkdir)
        monkeypatch.setattr(os, "fsync", seen_fsync)

    def _add(self, path: Path) -> None:
        if path.is_relative_to(self.root) and not any(p.startswith(PARTIAL) for p in path.parts):
            self.unsafe.add(path)


@pytest.fixture
def disk(tmp_path, monkeypatch) -> Disk:
    return Disk(tmp_path, monkeypatch)


def test_the_pointer_names_only_what_survives(tmp_path, disk):
    data_dir = tmp_path / "data"
    model = StandIn.make(40, codes=4)
    store = ItemStore(data_dir / "indexer" / "rocksdb")
    indexer = Indexer(IndexerConfig(), store, data_dir, lambda: 7, StandIn.load)
    indexer.recover()
    model.hand_over(data_dir, 1)
    indexer.index_handover(1)
    indexer.listen([Announced(0, 0, Item(900_000, "new", listed_at=3).to_bytes())], {0: 1})
    indexer.append_waiting()
    store.close()
    assert len(disk.named_unsafely) == 2  # the snapshot, and the file appended to it
    for name, lost in disk.named_unsafely:
        assert not lost, f"{name} was written while these would be lost: {lost}"


def test_the_journal_is_in_a_directory_that_survives(tmp_path, disk):
    RocksJournal(tmp_path / "trainer" / "journal").close()
    assert not disk.unsafe


def test_a_small_file_in_a_new_folder_survives(tmp_path, disk):
    write_atomically(tmp_path / "a" / "b" / "file", b"content")
    assert not disk.unsafe
