"""Reading versions: what is on disk, verified, and what of a held version it shares."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from indexer.errors import IndexerError, SnapshotError
from indexer.lists.code_lists import CodeLists, file_name
from indexer.snapshots import learnt_lists
from indexer.snapshots.item_table import ItemTable, Rows
from indexer.snapshots.learnt_lists import ids_of
from indexer.snapshots.list_changes import ListChanges
from indexer.snapshots.placed_items import PlacedItems
from indexer.snapshots.pointer import SNAPSHOTS, Pointer, read_pointer, snapshot_path
from indexer.snapshots.published import begin_with, published, require_published
from indexer.snapshots.snapshot import CHANGES, INDEX, KIND, PLACED, WEIGHTS, Snapshot
from indexer.snapshots.snapshot_facts import CATALOGUE, SnapshotFacts
from model.artifacts.chain import Chain
from model.artifacts.manifest import Manifest, ManifestError, read_manifest, verify
from model.artifacts.numbered import NumberedDirectories
from model.artifacts.verified_files import VerifiedFiles

if TYPE_CHECKING:  # torch is needed where a model is loaded only
    from model.retrieval.item_segments import ItemSegments
    from model.retrieval.retrieval_model import RetrievalModel

ModelLoader = Callable[[Path, Manifest, "ItemSegments"], "RetrievalModel"]
"""Reads the weights of a published directory, whose items are loaded."""


def load_snapshot(
    directory: Path,
    load_model: ModelLoader | None = None,
    digest: str | None = None,
    held: Snapshot | None = None,
    verified: VerifiedFiles | None = None,
) -> Snapshot:
    """Verify and read a snapshot directory, without what was appended to it.

    Args:
        directory: `<data>/snapshots/<version>`.
        load_model: reads the weights; by default `RetrievalModel.load` on the CPU.
        digest: what the manifest's digest must be (the pointer says), None for any.
        held: a version, older or newer, from which what is the same is taken over.
        verified: files that are known; None for none.

    Raises:
        SnapshotError: naming the file that is missing, altered, foreign or does not fit, or what
            to do about a snapshot that another version of this program wrote.
    """
    try:
        manifest = verify(directory, KIND, (verified or VerifiedFiles()).digest)
    except ManifestError as error:
        raise SnapshotError(str(error)) from error
    if digest is not None and manifest.digest != digest:
        raise SnapshotError(f"{directory}: is another snapshot than the pointer names")
    facts = facts_of(directory, manifest)
    try:
        items = load_items(directory, manifest, held)
        model = (load_model or load_weights)(directory, manifest, items)
    except (ValueError, RuntimeError, OSError, KeyError) as error:
        raise SnapshotError(f"{directory}/{WEIGHTS}: {error}") from error
    C = model.first_level_codes
    index = [f"{INDEX}/{file_name(code)}" for code in range(C)]
    expected = {WEIGHTS, CHANGES, PLACED, *facts.segments, *facts.catalogue, *index}
    if manifest.files.keys() != expected:
        odd = sorted(manifest.files.keys() ^ expected)
        raise SnapshotError(f"{directory}: {odd[0]!r} is missing or too much for {C} codes")
    changes = ListChanges.load(directory / CHANGES, C)
    learnt = _lists(directory, manifest, changes, model, held)
    catalogue = _catalogue(directory, manifest, held)
    placed = PlacedItems.read(directory / PLACED, model.levels, model.dimension, C)
    snapshot = Snapshot(
        facts, directory, manifest, model, learnt, catalogue, learnt, catalogue, changes.absent_a
    )
    try:
        return snapshot.with_placed(placed)
    except IndexerError as error:
        raise SnapshotError(f"{directory / PLACED}: {error}") from error


def facts_of(directory: Path, manifest: Manifest) -> SnapshotFacts:
    """The facts of a snapshot that this program can read.

    Raises:
        SnapshotError: saying what to do about one that another version of this program wrote.
    """
    try:
        facts = SnapshotFacts.of(manifest)
    except ManifestError as error:
        raise SnapshotError(f"{directory}: {error}") from error
    if facts.schema_version < SnapshotFacts.VERSION:
        raise SnapshotError(
            f"{directory}: written by an older version of this program, whose lists this one does "
            "not read: it makes a version of its own of the trainer's next handover; to go back "
            "to this one, run the program that wrote it"
        )
    if not facts.version:
        raise SnapshotError(f"{directory}: its manifest says no version")
    return facts


def load_items(directory: Path, manifest: Manifest, held: Snapshot | None) -> ItemSegments:
    """What a published directory says of the items; segments that are held are not read again.

    Raises:
        ManifestError: if it names no segments.
        SegmentError: if they do not fit each other.
    """
    from model.retrieval.item_segments import ItemSegments

    known = (held.manifest, held.model.items) if held is not None else None
    return ItemSegments.load(directory, manifest, known)


def _lists(
    directory: Path,
    manifest: Manifest,
    changes: ListChanges,
    model: RetrievalModel,
    held: Snapshot | None,
) -> CodeLists:
    """The lists of what the model has learnt."""
    index, C = directory / INDEX, model.first_level_codes
    if held is None or (len(held.learnt.lists), held.learnt.dimension) != (C, model.dimension):
        return learnt_lists.read(index, C, changes, model.items)
    moved = learnt_lists.movement(held.model.items, model.items)
    try:
        lists = learnt_lists.advanced(
            held.learnt, moved, changes.absent_a, held.absent, model.items
        )
        fresh = {}
        for code in range(C):
            name = f"{INDEX}/{file_name(code)}"
            if manifest.files[name][0] == held.manifest.files[name][0]:
                continue
            fresh[code] = one = learnt_lists.read_list(index, code, changes, model.items)
            if not np.array_equal(ids_of(one), ids_of(lists.lists[code])):
                raise SnapshotError(
                    f"{directory / name} does not hold the items that have its code"
                )
        return lists.replaced(fresh)
    except IndexerError as error:
        raise SnapshotError(f"{directory}: {error}") from error


def _catalogue(directory: Path, manifest: Manifest, held: Snapshot | None) -> ItemTable:
    try:
        chain = Chain.of(directory, manifest, CATALOGUE)
    except ManifestError as error:
        raise SnapshotError(str(error)) from error
    known: dict[str, Rows] = {}
    if held is not None:
        before = [held.manifest.files[name][0] for name in held.facts.catalogue]
        known = dict(zip(before, held.catalogue.parts, strict=True))
        if (new := chain.since(before)) is not None:
            table = held.catalogue
            for name in new:
                table = table.with_rows(Rows.read(directory / name))
            return table
    digests = [chain.digests[name] for name in chain.names]
    return ItemTable.of(
        [
            known[digest] if digest in known else Rows.read(path)
            for digest, path in zip(digests, chain.paths(), strict=True)
        ]
    )


def load_version(
    data_dir: Path,
    version: int,
    load_model: ModelLoader | None = None,
    digest: str | None = None,
    held: Snapshot | None = None,
    verified: VerifiedFiles | None = None,
) -> Snapshot:
    """`load_snapshot` of a version of a data directory, if it is what was published there.

    Raises:
        SnapshotError: as `load_snapshot`, and if it was altered or not published there.
    """
    directory = data_dir / snapshot_path(version)
    found = manifest_of(directory).digest
    require_published(data_dir, version, found)
    snapshot = load_snapshot(directory, load_model, digest or found, held, verified)
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


def load_weights(directory: Path, manifest: Manifest, items: ItemSegments) -> RetrievalModel:
    """`RetrievalModel.load` on the CPU; torch is imported here, where it is first needed."""
    from model.retrieval.retrieval_model import RetrievalModel

    return RetrievalModel.load(directory, manifest, items=items)


def load_appended(
    data_dir: Path, pointer: Pointer, snapshot: Snapshot, verified: VerifiedFiles | None = None
) -> Snapshot:
    """The snapshot with the files of `pointer.appended`; those that it holds are not read again.

    Where the pointer has dropped some that it holds (they were merged into another), it begins
    again from what was published, or they would be kept in memory until the next version.

    Raises:
        SnapshotError: if the pointer is of another version, or a file is missing, altered or does
            not fit the model.
    """
    if pointer.version != snapshot.version:
        raise SnapshotError(f"appended to version {pointer.version}, not {snapshot.version}")
    if any(one not in pointer.appended for one in snapshot.appended):
        snapshot = snapshot.as_published()
    model, verified = snapshot.model, verified or VerifiedFiles()
    for one in pointer.appended:
        if one in snapshot.appended:
            continue
        path = data_dir / one.file
        try:
            if path.resolve().parent != (data_dir / one.file).parent.resolve():
                raise SnapshotError(f"{path}: leads outside {path.parent}")
            if verified.digest(path) != one.sha256:
                raise SnapshotError(f"{path}: content differs from the digest in the pointer")
        except OSError as error:
            raise SnapshotError(f"{path}: {error.strerror}") from error
        placed = PlacedItems.read(path, model.levels, model.dimension, model.first_level_codes)
        try:
            snapshot = snapshot.with_placed(placed)
        except IndexerError as error:
            raise SnapshotError(f"{path}: {error}") from error
    return replace(snapshot, appended=pointer.appended)


def load_served(
    data_dir: Path,
    load_model: ModelLoader | None = None,
    loaded: Snapshot | None = None,
    verified: VerifiedFiles | None = None,
) -> Snapshot | None:
    """What `current.json` names, with what was appended; None before the first snapshot.

    Given what is `loaded`, only what differs is read: `loaded` itself is returned if nothing does.

    Raises:
        SnapshotError: if any of it is unusable; what is loaded goes on serving. A snapshot may
            have been removed between the look at the pointer and the reading: try again.
    """
    pointer = read_pointer(data_dir)
    if pointer is None:
        return None
    if loaded is None or loaded.manifest.digest != pointer.digest:
        loaded = load_version(
            data_dir, pointer.version, load_model, pointer.digest, loaded, verified
        )
    if loaded.appended == pointer.appended:
        return loaded
    return load_appended(data_dir, pointer, loaded, verified)


def versions(data_dir: Path) -> list[int]:
    """Published versions, ascending."""
    return NumberedDirectories(data_dir / SNAPSHOTS).numbers()
