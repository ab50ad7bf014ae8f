"""The index: for each first-level code the items that carry it.

Lists are immutable: a change makes a new `CodeLists` that shares every untouched list with the old
one, and the base of every touched one, so searches that are under way never see half a change. On
disk a list is one file named by its code; an untouched list is hard-linked from the parent
snapshot, and read by mapping it into memory.

Shapes: N rows of all lists, n items, D dimension, C codes, Q levels.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexer.errors import IndexerError, SnapshotError
from indexer.lists.cells import checked, open_rows
from indexer.lists.code_list import NO_ROWS, CodeList
from indexer.lists.item_locations import ItemLocations
from model.artifacts.chain import link


class CodeLists:
    """One `CodeList` per first-level code; every item is in exactly one of them.

    `lists[c]` are the items of code c. The concatenation of all lists, code by code, numbers the
    items: the *position* of an item is its row in that order.

    Attributes:
        lists: C of them.
        dimension: of their vectors.
        sizes_C: int64, how many items each holds.
        lengths_C: int64, how many rows each has; more than items where some were removed.
        starts_C: int64, the position of the first row of each.
        item_locations: where every item is.
    """

    def __init__(
        self,
        lists: Sequence[CodeList],
        dimension: int,
        item_locations: ItemLocations | None = None,
    ) -> None:
        for code, one in enumerate(lists):
            if one.dimension != dimension:
                raise IndexerError(
                    f"list of code {code} has dimension {one.dimension}, not {dimension}"
                )
        self.lists = tuple(lists)
        self.dimension = dimension
        self.lengths_C = np.array([len(one.item_ids) for one in lists], np.int64)
        self.sizes_C = np.array([len(one) for one in lists], np.int64)
        self.starts_C = np.cumsum(self.lengths_C) - self.lengths_C
        # those who change a few lists know where everything is without counting anew
        self.item_locations = item_locations or ItemLocations.of([one.present_ids for one in lists])

    def __len__(self) -> int:
        return int(self.sizes_C.sum())

    @cached_property
    def item_ids_N(self) -> NDArray[np.int64]:
        """Int64 by position, -1 where the item was removed; made when it is first asked for."""
        return np.concatenate([NO_ROWS, *(one.present_ids for one in self.lists)])

    @classmethod
    def build(
        cls,
        item_ids_N: NDArray[np.int64],
        codes_NQ: NDArray[np.integer],
        vectors_ND: NDArray[np.float32],
        first_level_codes: int,
    ) -> CodeLists:
        """All lists from the codes and the vector of every item.

        Raises:
            IndexerError: for vectors that are not finite, duplicate ids, codes out of range and
                shapes that do not match.
        """
        ids_N, vectors_ND = np.asarray(item_ids_N, np.int64), np.asarray(vectors_ND, np.float32)
        checked(ids_N, codes_NQ, vectors_ND, "items")
        return cls(
            [
                CodeList.of(ids_N[rows], seconds(codes_NQ[rows]), vectors_ND[rows])
                for rows in members(codes_NQ[:, 0], ids_N, first_level_codes)
            ],
            vectors_ND.shape[1],
        )

    def replaced(self, lists: Mapping[int, CodeList]) -> CodeLists:
        """The same lists but for those given; the others are shared, not copied."""
        if not lists:
            return self
        return CodeLists(
            [lists.get(code, one) for code, one in enumerate(self.lists)],
            self.dimension,
            self.item_locations.replaced({code: one.present_ids for code, one in lists.items()}),
        )

    def with_items(
        self,
        item_ids: NDArray[np.int64],
        codes_nQ: NDArray[np.integer],
        vectors: NDArray[np.float32],
    ) -> CodeLists:
        """These items added; one that is already there gets its new vector and moves to its code.

        Raises:
            IndexerError: as `build`.
        """
        ids, vectors = np.asarray(item_ids, np.int64), np.asarray(vectors, np.float32)
        if vectors.shape != (len(ids), self.dimension):
            raise IndexerError(
                f"{len(ids)} appended items have vectors of shape {vectors.shape}; the lists "
                f"have dimension {self.dimension}"
            )
        if not len(ids):
            return self
        checked(ids, codes_nQ, vectors, "appended items")
        codes_n = _codes(codes_nQ[:, 0], ids, len(self.lists))
        order = np.argsort(ids, kind="stable")
        ids = ids[order]
        if (same := ids[1:] == ids[:-1]).any():
            raise IndexerError(f"appended items: item {ids[1:][same][0]} is there more than once")
        return self._moved(ids, codes_n[order], seconds(codes_nQ[order]), vectors[order])

    def without(self, item_ids: NDArray[np.int64]) -> CodeLists:
        """The same without these items; the lists themselves where none of them is in any."""
        item_ids = np.unique(np.asarray(item_ids, np.int64))
        item_ids = item_ids[self.locate(item_ids)[0] >= 0]
        if not len(item_ids):
            return self
        nowhere = np.full(len(item_ids), -1)
        none = np.empty((len(item_ids), self.dimension), np.float32)
        return self._moved(item_ids, nowhere, nowhere, none)

    def _moved(
        self,
        item_ids: NDArray[np.int64],
        codes_n: NDArray[np.int64],
        seconds_n: NDArray[np.integer],
        vectors: NDArray[np.float32],
    ) -> CodeLists:
        """Items, ascending by id, in the lists of these codes, wherever they were; -1: in none."""
        before, rows = self.locate(item_ids)
        from_n, to_n = np.argsort(before, kind="stable"), np.argsort(codes_n, kind="stable")
        every_code = np.arange(len(self.lists) + 1)
        leaving = np.searchsorted(before[from_n], every_code)
        coming = np.searchsorted(codes_n[to_n], every_code)
        going_rows, new_ids = rows[from_n], item_ids[to_n]
        new_seconds, new_vectors = seconds_n[to_n], vectors[to_n]
        lists = list(self.lists)
        gone = item_ids[codes_n < 0]
        ids, codes, places = [gone], [np.full(len(gone), -1)], [np.full(len(gone), -1)]
        for code in np.flatnonzero((np.diff(leaving) > 0) | (np.diff(coming) > 0)).tolist():
            here = slice(coming[code], coming[code + 1])
            lists[code] = new = lists[code].changed(
                going_rows[leaving[code] : leaving[code + 1]],
                new_ids[here],
                new_seconds[here],
                new_vectors[here],
            )
            ids.append(new.tail.item_ids)  # these rows are numbered anew
            codes.append(np.full(len(new.tail), code))
            places.append(len(new.base) + np.arange(len(new.tail)))
        moved = self.item_locations.moved(*(np.concatenate(x) for x in (ids, codes, places)))
        return CodeLists(lists, self.dimension, moved)

    def locate(self, item_ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First-level code and row in its list of each item; -1, -1 for an unknown one."""
        return self.item_locations.locate(np.asarray(item_ids, np.int64))

    def positions_of(
        self, item_ids: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Position and first-level code of each item; -1, -1 for an unknown one."""
        codes, rows = self.locate(item_ids)
        return np.where(codes >= 0, self.starts_C[codes] + rows, -1), codes

    def codes_at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """First-level codes of positions."""
        return np.searchsorted(self.starts_C, positions, side="right") - 1

    def vectors_of(self, item_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors (n, D) of items that are in the lists, as the lists hold them.

        Raises:
            IndexerError: for an item that is in none.
        """
        positions, codes = self.positions_of(item_ids)
        if (codes < 0).any():
            raise IndexerError(f"item {item_ids[codes < 0][0]} is in no list")
        return self.vectors_at(positions)

    def vectors_at(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors (n, D) of positions."""
        found = np.empty((len(positions), self.dimension), np.float32)
        if not len(positions):
            return found
        codes = self.codes_at(positions)
        order = np.argsort(codes, kind="stable")
        present, starts = np.unique(codes[order], return_index=True)
        for code, here in zip(present.tolist(), np.split(order, starts[1:]), strict=True):
            found[here] = self.lists[code].vectors(positions[here] - self.starts_C[code])
        return found

    def write(
        self, directory: Path, linked: Collection[int] = (), source: Path | None = None
    ) -> None:
        """One file per code; those of the codes in `linked` are hard links to files in `source`."""
        directory.mkdir(parents=True, exist_ok=True)
        for code, one in enumerate(self.lists):
            path = directory / file_name(code)
            if source is not None and code in linked:
                link(source / file_name(code), path)
            else:
                one.save(path)

    @classmethod
    def load(
        cls,
        directory: Path,
        first_level_codes: int,
        dimension: int,
        holding: tuple[NDArray[np.int64], NDArray[np.integer]] | None = None,
    ) -> CodeLists:
        """Map what `write` wrote into memory, after the digests were verified.

        All files are checked before the first list is made of any.

        Args:
            directory: of the files.
            first_level_codes: how many lists there must be.
            dimension: of their vectors.
            holding: ids, ascending, and codes of the items that they must hold, None for any.

        Raises:
            SnapshotError: naming the file that is missing, malformed, of another dimension or
                inconsistent, or that holds other items.
        """
        try:
            read = [
                open_rows(directory / file_name(code), dimension)
                for code in range(first_level_codes)
            ]
            if holding is not None:
                ids_N, codes_N = holding
                rows_C = members(codes_N, ids_N, first_level_codes)
                for code, (rows, expected) in enumerate(zip(read, rows_C, strict=True)):
                    if not np.array_equal(np.sort(rows.item_ids), ids_N[expected]):
                        raise SnapshotError(
                            f"{file_name(code)} does not hold the items that have its code"
                        )
            locations = ItemLocations.of([rows.item_ids for rows in read])
            return cls([CodeList(rows) for rows in read], dimension, locations)
        except (OSError, IndexerError) as error:
            raise SnapshotError(f"{directory}: {error}") from error


def file_name(code: int) -> str:
    """Name of the file that holds the list of a code."""
    return f"{code:05d}.safetensors"


def seconds(codes_nQ: NDArray[np.integer]) -> NDArray[np.integer]:
    """Second-level codes (n,), 0 where there is one level alone."""
    return codes_nQ[:, 1] if codes_nQ.shape[1] > 1 else np.zeros(len(codes_nQ), np.int16)


def _codes(
    codes: NDArray[np.integer], item_ids: NDArray[np.int64], first_level_codes: int
) -> NDArray[np.int64]:
    if codes.shape != item_ids.shape:
        raise IndexerError(f"{codes.shape} codes for {item_ids.shape} items")
    if len(codes) and not 0 <= codes.min() <= codes.max() < first_level_codes:
        bad = item_ids[(codes < 0) | (codes >= first_level_codes)][0]
        raise IndexerError(f"item {bad} has a code outside 0..{first_level_codes - 1}")
    return codes.astype(np.int64)


def members(
    codes_N: NDArray[np.integer], item_ids_N: NDArray[np.int64], first_level_codes: int
) -> list[NDArray[np.int64]]:
    """Rows of the items of each code, in order.

    Raises:
        IndexerError: for a code out of range.
    """
    codes_N = _codes(codes_N, item_ids_N, first_level_codes)
    order = np.argsort(codes_N, kind="stable")
    ends = np.cumsum(np.bincount(codes_N, minlength=first_level_codes))
    return np.split(order, ends[:-1])
