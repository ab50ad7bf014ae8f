"""A snapshot: everything that answers queries, in one directory that appears whole.

    snapshots/<version, 8 digits>/
        weights.safetensors, items-<handover>.safetensors   from the trainer's handover
        items.parquet         items, codes, vectors, features
        index/<code>.safetensors   the list of each first-level code
        manifest.json         written last: `SnapshotFacts` and the digest of every file

Files that did not change are hard links to the handover or the parent snapshot. A reader checks
every digest before it parses anything, and then that the parts fit each other, so that codebook,
towers and lists of different versions never answer together.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from indexer.errors import IndexerError, SnapshotError
from indexer.lists.code_lists import CodeLists, file_name
from indexer.snapshots.item_table import ItemTable, read_items, read_vectors, write_items
from indexer.snapshots.pointer import (
    APPENDED,
    SNAPSHOTS,
    Appended,
    Pointer,
    appended_path,
    read_pointer,
    snapshot_path,
)
from indexer.snapshots.published import begin_with, published, record, require_published
from indexer.snapshots.snapshot_facts import SnapshotFacts
from model.artifacts.chain import link
from model.artifacts.manifest import Manifest, ManifestError, publish, read_manifest, sha256, verify
from model.artifacts.numbered import NumberedDirectories
from streaming.durable_files import PARTIAL, appear, make_folder
from streaming.events import Item

if TYPE_CHECKING:  # torch is needed where a model is loaded only
    from model.retrieval.retrieval_model import RetrievalModel

KIND = "snapshot"
WEIGHTS = "weights.safetensors"
ITEMS = "items.parquet"
INDEX = "index"

ModelLoader = Callable[[Path, Manifest], "RetrievalModel"]


@dataclass(frozen=True)
class Snapshot:
    """A verified snapshot, ready to answer; `lists` and `items` include what was appended.

    Attributes:
        facts: what its manifest says of it.
        path: its directory.
        manifest: digests.
        model: the weights.
        lists: the items by first-level code.
        items: features for display.
        appended: the files appended to it that are loaded.
        appended_items: ids of the items in them.
    """

    facts: SnapshotFacts
    path: Path
    manifest: Manifest
    model: RetrievalModel
    lists: CodeLists
    items: ItemTable
    appended: tuple[Appended, ...] = ()
    appended_items: frozenset[int] = frozenset()

    @property
    def version(self) -> int:
        """Its number."""
        return self.facts.version

    def without(self, item_ids: NDArray[np.int64]) -> Snapshot:
        """The same without these items; itself where it holds none of them."""
        lists = self.lists.without(item_ids)
        if lists is self.lists:
            return self
        left = self.appended_items - set(item_ids.tolist())
        items = self.items.without(item_ids)
        return replace(self, lists=lists, items=items, appended_items=left)


@dataclass(frozen=True)
class Source:
    """A verified file and its digest, to be linked into a snapshot."""

    path: Path
    sha256: str


def write_snapshot(
    data_dir: Path,
    facts: SnapshotFacts,
    *,
    linked: Sequence[Source],
    lists: CodeLists,
    items: Sequence[Item],
    codes_NQ: NDArray[np.int64],
    first_seen_N: NDArray[np.int64],
    events_N: NDArray[np.int64],
    parent: Snapshot | None = None,
    shared: Sequence[int] = (),
) -> Manifest:
    """Publish `snapshots/<facts.version>`; the lists of the `shared` codes are those of `parent`.

    Weights and segments of items are `linked`.

    Raises:
        FileExistsError: if the version exists.
        OSError: if it cannot be written; nothing of it is then visible.
    """
    known = {source.path.name: source.sha256 for source in linked}
    names = [f"{INDEX}/{file_name(code)}" for code in shared]
    if parent is not None:
        known |= {name: parent.manifest.files[name][0] for name in names}

    def write(directory: Path) -> None:
        for source in linked:
            link(source.path, directory / source.path.name)
        vectors_ND = lists.vectors_of(np.array([i.item_id for i in items], np.int64))
        write_items(directory / ITEMS, items, codes_NQ, vectors_ND, first_seen_N, events_N)
        lists.write(directory / INDEX, shared, parent.path / INDEX if parent else None)

    return publish(
        data_dir / snapshot_path(facts.version),
        KIND,
        facts.to_json(),
        write,
        known,
        lambda digest: record(data_dir, facts.version, digest),
    )


def load_snapshot(
    directory: Path, load_model: ModelLoader | None = None, digest: str | None = None
) -> Snapshot:
    """Verify and read a snapshot directory, without what was appended to it.

    Args:
        directory: `<data>/snapshots/<version>`.
        load_model: reads the weights; by default `RetrievalModel.load` on the CPU.
        digest: what the manifest's digest must be (the pointer says), None for any.

    Raises:
        SnapshotError: naming the file that is missing, altered, foreign or does not fit, or what
            to do about a snapshot that a newer version of this program wrote.
    """
    try:
        manifest = verify(directory, KIND)
    except ManifestError as error:
        raise SnapshotError(str(error)) from error
    if digest is not None and manifest.digest != digest:
        raise SnapshotError(f"{directory}: is another snapshot than the pointer names")
    try:
        facts = SnapshotFacts.of(manifest)
    except ManifestError as error:
        raise SnapshotError(f"{directory}: {error}") from error
    if not facts.version:
        raise SnapshotError(f"{directory}: its manifest says no version")
    try:
        model = (load_model or load_weights)(directory, manifest)
    except (ValueError, RuntimeError, OSError, KeyError) as error:
        raise SnapshotError(f"{directory}/{WEIGHTS}: {error}") from error
    C = model.first_level_codes
    index = (f"{INDEX}/{file_name(code)}" for code in range(C))
    expected = {WEIGHTS, *facts.segments, ITEMS, *index}
    if manifest.files.keys() != expected:
        odd = sorted(manifest.files.keys() ^ expected)
        raise SnapshotError(f"{directory}: {odd[0]!r} is missing or too much for {C} codes")
    items = read_items(directory / ITEMS, model.levels, C)
    holding = (items.item_ids_N, items.codes_NQ[:, 0])
    lists = CodeLists.load(directory / INDEX, C, model.dimension, holding)
    return Snapshot(facts, directory, manifest, model, lists, items)


def load_version(
    data_dir: Path, version: int, load_model: ModelLoader | None = None, digest: str | None = None
) -> Snapshot:
    """`load_snapshot` of a version of a data directory, if it is what was published there.

    Raises:
        SnapshotError: as `load_snapshot`, and if it was altered or not published there.
    """
    directory = data_dir / snapshot_path(version)
    found = manifest_of(directory).digest
    require_published(data_dir, version, found)
    snapshot = load_snapshot(directory, load_model, digest or found)
    if snapshot.version != version:
        raise SnapshotError(f"{snapshot.path}: is version {snapshot.version}")
    return snapshot


def manifest_of(directory: Path) -> Manifest:
    """The manifest of a snapshot directory, its files unseen.

    Raises:
        SnapshotError: if it is missing or malformed.
    """
    try:
        return read_manifest(directory, KIND)
    except ManifestError as error:
        raise SnapshotError(str(error)) from error


def note_published(data_dir: Path) -> None:
    """In a data directory that is older than its record, note the versions on disk."""
    if published(data_dir) is not None:
        return
    found: dict[int, str] = {}
    for version in versions(data_dir):
        with contextlib.suppress(ManifestError):  # damaged: it would not be served anyway
            found[version] = verify(data_dir / snapshot_path(version), KIND).digest
    if found:
        begin_with(data_dir, found)


def load_weights(directory: Path, manifest: Manifest) -> RetrievalModel:
    """`RetrievalModel.load` on the CPU; torch is imported here, where it is first needed."""
    from model.retrieval.retrieval_model import RetrievalModel

    return RetrievalModel.load(directory, manifest)


def load_appended(data_dir: Path, pointer: Pointer, snapshot: Snapshot) -> Snapshot:
    """The snapshot with every file of `pointer.appended` that it does not hold yet.

    Raises:
        SnapshotError: if the pointer is of another version, or a file is missing, altered or does
            not fit the model.
    """
    if pointer.version != snapshot.version:
        raise SnapshotError(f"appended to version {pointer.version}, not {snapshot.version}")
    lists, items, added = snapshot.lists, snapshot.items, set[int]()
    for one in pointer.appended:
        if one in snapshot.appended:
            continue
        path = data_dir / one.file
        try:
            if path.resolve().parent != (data_dir / one.file).parent.resolve():
                raise SnapshotError(f"{path}: leads outside {path.parent}")
            if sha256(path) != one.sha256:
                raise SnapshotError(f"{path}: content differs from the digest in the pointer")
        except OSError as error:
            raise SnapshotError(f"{path}: {error.strerror}") from error
        new = read_items(path, snapshot.model.levels, snapshot.model.first_level_codes)
        vectors = read_vectors(path, snapshot.model.dimension)
        try:
            lists = lists.with_items(new.item_ids_N, new.codes_NQ, vectors)
        except IndexerError as error:
            raise SnapshotError(f"{path}: {error}") from error
        items = items.merged(new)
        added.update(new.item_ids_N.tolist())
    return replace(
        snapshot,
        lists=lists,
        items=items,
        appended=pointer.appended,
        appended_items=snapshot.appended_items | added,
    )


def load_served(
    data_dir: Path, load_model: ModelLoader | None = None, loaded: Snapshot | None = None
) -> Snapshot | None:
    """What `current.json` names, with what was appended; None before the first snapshot.

    Given what is `loaded`, only what is new is read: `loaded` itself is returned if nothing is.

    Raises:
        SnapshotError: if any of it is unusable; what is loaded goes on serving. A snapshot may
            have been removed between the look at the pointer and the reading: try again.
    """
    pointer = read_pointer(data_dir)
    if pointer is None:
        return None
    if loaded is None or loaded.manifest.digest != pointer.digest:
        loaded = load_version(data_dir, pointer.version, load_model, pointer.digest)
    return (
        loaded if loaded.appended == pointer.appended else load_appended(data_dir, pointer, loaded)
    )


def write_appended(
    data_dir: Path,
    version: int,
    number: int,
    position: dict[int, int],
    *,
    items: Sequence[Item],
    codes_nQ: NDArray[np.int64],
    vectors_nD: NDArray[np.float32],
    first_seen_n: NDArray[np.int64],
    events_n: NDArray[np.int64],
) -> Appended:
    """Write the `number`-th file appended to a version; it counts once the pointer names it."""
    path = data_dir / appended_path(version, number)
    make_folder(path.parent)
    partial = path.parent / f"{PARTIAL}{path.name}-{os.getpid()}"
    write_items(partial, items, codes_nQ, vectors_nD, first_seen_n, events_n)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    digest = sha256(partial)
    appear(partial, path)
    return Appended(appended_path(version, number), digest, position)


def versions(data_dir: Path) -> list[int]:
    """Published versions, ascending."""
    return NumberedDirectories(data_dir / SNAPSHOTS).numbers()


def remove_versions(data_dir: Path, keep: int, protected: set[int]) -> list[int]:
    """Remove all but the last `keep` versions and the protected ones, and what was appended.

    Returns the removed versions.
    """
    removed = NumberedDirectories(data_dir / SNAPSHOTS).keep(keep, protected)
    for version in removed:
        for file in (data_dir / APPENDED).glob(f"{version:08d}-*.parquet"):
            file.unlink(missing_ok=True)
    return removed
