"""The lists of what a model has learnt: read from a version's files, or advanced from another's.

Both ways end in the same lists. Advancing costs what differs between the two versions, whichever is
the newer and however many lie between them.

Shapes: m items that differ, C codes.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from indexer.errors import IndexerError, SnapshotError
from indexer.lists.cells import checked, open_rows
from indexer.lists.code_list import CodeList
from indexer.lists.code_lists import CodeLists, file_name, members, seconds
from indexer.snapshots.list_changes import ListChanges
from model.tables.row_index import NO_ITEM

if TYPE_CHECKING:  # torch is needed by the model only
    from model.retrieval.item_segments import ItemSegments
    from model.retrieval.retrieval_model import RetrievalModel

Ids = NDArray[np.int64]
CHUNK = 16_384
"""Items whose vectors are compared at once; bounds the memory."""


class Movement(NamedTuple):
    """Items that are not where they were.

    Attributes:
        ids_m: int64, ascending: those with another vector or other codes, new ones, and those that
            the model has lost.
        codes_mQ: int64, where they are now; -1 for those that it has lost.
    """

    ids_m: Ids
    codes_mQ: NDArray[np.int64]


def movement(before: ItemSegments, after: ItemSegments) -> Movement:
    """What differs between the items of two models; costs the segments that are in one alone.

    Segments that both hold are the same objects; see `RetrievalModel.load`.
    """
    old, new = ({id(one): one for one in items.segments} for items in (before, after))
    apart = [one for key, one in (old | new).items() if not (key in old and key in new)]
    if not apart:
        return Movement(np.empty(0, np.int64), np.empty((0, after.codes_NQ.shape[1]), np.int64))
    ids = np.unique(np.concatenate([x for one in apart for x in (one.ids_n, one.gone_ids_g)]))
    ids = ids[ids != NO_ITEM]
    moved = [_differing(before, after, ids[a : a + CHUNK]) for a in range(0, len(ids), CHUNK)]
    ids = np.concatenate([ids[:0], *moved])
    rows = after.rows(ids)
    codes = np.full((len(ids), after.codes_NQ.shape[1]), -1, np.int64)
    codes[rows >= 0] = after.codes_NQ[rows[rows >= 0]]
    return Movement(ids, codes)


def _differing(before: ItemSegments, after: ItemSegments, ids: Ids) -> Ids:
    a, b = before.rows(ids), after.rows(ids)
    same = (a >= 0) & (b >= 0)
    a, b = a[same], b[same]
    if before.codes_NQ.shape[1] == after.codes_NQ.shape[1] and before.dimension == after.dimension:
        equal = (before.codes_NQ[a] == after.codes_NQ[b]).all(axis=1)
        equal &= (before.z(a) == after.z(b)).all(axis=1)
        same[same] = equal
    else:
        same[:] = False
    return ids[~same]


def built(model: RetrievalModel, absent: Collection[int] | Ids) -> CodeLists:
    """The lists of all that a model has learnt, but for what is absent, in memory.

    Raises:
        IndexerError: as `CodeLists.build`.
    """
    items = model.items
    kept = items.item_rows
    kept = kept[~np.isin(items.ids_N[kept], np.fromiter(absent, np.int64, len(absent)))]
    lists = []
    for at in members(items.codes_NQ[kept, 0], items.ids_N[kept], model.first_level_codes):
        rows = kept[at]  # a code at a time: all vectors at once would be held twice
        ids, codes_nQ, vectors_nD = items.ids_N[rows], items.codes_NQ[rows], items.z(rows)
        checked(ids, codes_nQ, vectors_nD, "items")
        lists.append(CodeList.of(ids, seconds(codes_nQ), vectors_nD))
    return CodeLists(lists, items.dimension)


def advanced(
    lists: CodeLists, moved: Movement, absent: Ids, absent_before: Ids, items: ItemSegments
) -> CodeLists:
    """The lists of another model that has the same codes.

    Args:
        lists: of the model before.
        moved: between the two models.
        absent: what the new lists do not hold, ascending.
        absent_before: what the old ones did not hold, ascending.
        items: of the new model.

    Raises:
        IndexerError: if its vectors or codes are such that no list may hold them.
    """
    ids = np.union1d(moved.ids_m, np.setxor1d(absent, absent_before, assume_unique=True))
    rows = items.rows(ids)
    there = (rows >= 0) & ~np.isin(ids, absent)
    lists = lists.without(ids[~there])
    ids, rows = ids[there], rows[there]
    return lists.with_items(ids, items.codes_NQ[rows], items.z(rows))


def read(directory: Path, codes: int, changes: ListChanges, items: ItemSegments) -> CodeLists:
    """The lists of a version from all of its files, whose digests were verified.

    Raises:
        SnapshotError: if a file is malformed, or they do not hold what the model has learnt.
    """
    try:
        lists = CodeLists(
            [read_list(directory, code, changes, items) for code in range(codes)], items.dimension
        )
    except (OSError, IndexerError) as error:
        raise SnapshotError(f"{directory}: {error}") from error
    count = 0
    for code, one in enumerate(lists.lists):
        ids = one.present_ids
        rows = items.rows(ids[ids >= 0])
        if (rows < 0).any() or (items.codes_NQ[rows, 0] != code).any():
            raise SnapshotError(
                f"{directory / file_name(code)} does not hold the items that have its code"
            )
        count += len(rows)
    absent = changes.absent_a
    held = bool((lists.locate(absent)[0] >= 0).any())
    if held or (items.rows(absent) < 0).any() or count + len(absent) != items.count:
        raise SnapshotError(f"{directory}: the lists do not hold the items that the model knows")
    return lists


def read_list(directory: Path, code: int, changes: ListChanges, items: ItemSegments) -> CodeList:
    """One list from its file, whose digest was verified.

    Raises:
        SnapshotError: if the file is malformed or does not fit what is said of it.
    """
    path = directory / file_name(code)
    try:
        base = open_rows(path, items.dimension)
    except OSError as error:
        raise SnapshotError(f"{path}: {error}") from error
    removed, ids = changes.removed(code), changes.tail(code)
    if len(removed) and not (removed[0] >= 0 and removed[-1] < len(base)):
        raise SnapshotError(f"{path}: has no row {removed[-1]}")
    if (np.diff(removed) <= 0).any():
        raise SnapshotError(f"{path}: its removed rows do not ascend")
    rows = items.rows(ids)
    if (rows < 0).any():
        raise SnapshotError(f"{path}: item {ids[rows < 0][0]} is not the model's")
    codes_tQ = items.codes_NQ[rows]
    return CodeList(base).changed(removed, ids, seconds(codes_tQ), items.z(rows))


def ids_of(one: CodeList) -> Ids:
    """Ids of a list's items, ascending."""
    ids = one.present_ids
    return np.sort(ids[ids >= 0])
