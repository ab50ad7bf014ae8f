"""Writing versions, and files of items that are appended to them."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexer.lists.code_lists import CodeLists, file_name
from indexer.snapshots.item_table import ItemTable, Rows
from indexer.snapshots.list_changes import ListChanges
from indexer.snapshots.placed_items import PlacedItems
from indexer.snapshots.pointer import (
    APPENDED,
    SNAPSHOTS,
    Appended,
    appended_path,
    snapshot_path,
)
from indexer.snapshots.published import record
from indexer.snapshots.snapshot import CHANGES, INDEX, KIND, PLACED, Snapshot
from indexer.snapshots.snapshot_facts import CATALOGUE, SnapshotFacts
from model.artifacts.chain import Chain, link
from model.artifacts.manifest import Manifest, publish, sha256
from model.artifacts.numbered import NumberedDirectories
from streaming.durable_files import PARTIAL, appear, make_folder


@dataclass(frozen=True)
class Source:
    """A verified file and its digest, to be linked into a snapshot."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class Contents:
    """What a version is to hold.

    Attributes:
        handed_over: weights and segments of items, under the names that they keep.
        learnt: the lists of what the model has learnt; the base of each is, or becomes, its file.
        rebuilt: codes whose list becomes a file anew; the files of the others are the parent's.
        absent: int64 ids, ascending, of what the model has learnt and the lists do not hold.
        placed: items that the indexer has placed.
        listed: what is shown of the items that were listed or withdrawn since the parent; of all,
            where there is no parent.
    """

    handed_over: Sequence[Source]
    learnt: CodeLists
    rebuilt: Collection[int]
    absent: NDArray[np.int64]
    placed: PlacedItems
    listed: Rows


def write_snapshot(
    data_dir: Path, facts: SnapshotFacts, contents: Contents, parent: Snapshot | None = None
) -> Manifest:
    """Publish `snapshots/<facts.version>`, which links what it shares with `parent`.

    Raises:
        FileExistsError: if the version exists.
        OSError: if it cannot be written; nothing of it is then visible.
    """
    known = {one.path.name: one.sha256 for one in contents.handed_over}
    shared = {f"{INDEX}/{file_name(c)}" for c in range(len(contents.learnt.lists))}
    shared -= {f"{INDEX}/{file_name(code)}" for code in contents.rebuilt}
    if parent is not None:
        known |= {name: parent.manifest.files[name][0] for name in shared}
    chain, rows = _catalogue(contents.listed, parent)
    names = list(chain.names) if chain is not None else []
    if chain is not None:
        known |= chain.digests
    if rows is not None:
        names.append(f"{CATALOGUE}-{facts.version:08d}.arrow")
    facts = facts.model_copy(update={CATALOGUE: names})

    def write(directory: Path) -> None:
        for one in contents.handed_over:
            link(one.path, directory / one.path.name)
        source = parent.path / INDEX if parent is not None else None
        linked = set(range(len(contents.learnt.lists))) - set(contents.rebuilt)
        contents.learnt.write(directory / INDEX, linked, source)
        ListChanges.of(contents.learnt, contents.absent).save(directory / CHANGES)
        contents.placed.write(directory / PLACED)
        if chain is not None:
            chain.link(directory)
        if rows is not None:
            rows.write(directory / names[-1])

    return publish(
        data_dir / snapshot_path(facts.version),
        KIND,
        facts.to_json(),
        write,
        known,
        lambda digest: record(data_dir, facts.version, digest),
    )


def _catalogue(listed: Rows, parent: Snapshot | None) -> tuple[Chain | None, Rows | None]:
    """The files that the table goes on from, and the rows of its new file, if any."""
    if parent is None:
        return None, ItemTable.of([listed]).packed()
    chain = Chain.of(parent.path, parent.manifest, CATALOGUE)
    if not len(listed.ids_n):
        return chain, None
    if chain.is_full(listed.batch.nbytes):
        return None, parent.catalogue.with_rows(listed).packed()
    return chain, listed


def write_appended(
    data_dir: Path, version: int, number: int, position: dict[int, int], placed: PlacedItems
) -> Appended:
    """Write the `number`-th file appended to a version; it counts once the pointer names it."""
    path = data_dir / appended_path(version, number)
    make_folder(path.parent)
    partial = path.parent / f"{PARTIAL}{path.name}-{os.getpid()}"
    placed.write(partial)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    digest = sha256(partial)
    appear(partial, path)
    return Appended(appended_path(version, number), digest, position)


def remove_versions(data_dir: Path, keep: int, protected: set[int]) -> list[int]:
    """Remove all but the last `keep` versions and the protected ones, and what was appended.

    Returns the removed versions.
    """
    removed = NumberedDirectories(data_dir / SNAPSHOTS).keep(keep, protected)
    for version in removed:
        for file in (data_dir / APPENDED).glob(f"{version:08d}-*.arrow"):
            file.unlink(missing_ok=True)
    return removed
