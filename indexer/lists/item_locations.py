"""Where each item is: the code whose list holds it, and its row there.

A table of all items in order of id is shared from version to version; what changed since it was
made lies in a small second table, which overrides it, and the codes whose lists were replaced are
struck out of the first. So a change costs what it changes, not what there is.

Shapes: N items of the big table, M of the small one, C codes, n items asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexer.errors import IndexerError

Ids = NDArray[np.int64]
Small = NDArray[np.int32]

LARGEST_SHARE = 4
"""The small table is merged into the big one when it holds more than a fourth of it."""


@dataclass(frozen=True)
class _Table:
    """Items ascending by id, with their code and row."""

    ids: Ids
    codes: Small
    rows: Small

    @classmethod
    def of(cls, lists: Mapping[int, Ids]) -> _Table:
        """The items of some codes; `lists` holds their ids by row, -1 where a row holds none."""
        if not lists:
            return cls(np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.int32))
        sizes = [len(ids) for ids in lists.values()]
        ids = np.concatenate(list(lists.values()))
        order = np.argsort(ids, kind="stable")
        order = order[np.count_nonzero(ids < 0) :]
        codes = np.repeat(np.fromiter(lists, np.int32, len(lists)), sizes)
        rows = np.concatenate([np.arange(size, dtype=np.int32) for size in sizes])
        return cls(ids[order], codes[order], rows[order])

    def find(self, item_ids: Ids) -> tuple[NDArray[np.bool_], Ids]:
        """Whether each item is here, and where."""
        if not len(self.ids):
            return np.zeros(len(item_ids), bool), np.zeros(len(item_ids), np.int64)
        at = np.searchsorted(self.ids, item_ids).clip(max=len(self.ids) - 1)
        return self.ids[at] == item_ids, at

    def kept(self, keep: NDArray[np.bool_]) -> _Table:
        return _Table(self.ids[keep], self.codes[keep], self.rows[keep])

    def overridden(self, other: _Table) -> _Table:
        """Both; where an item is in both, it is where `other` has it."""
        here, at = self.find(other.ids)
        left = self
        if here.any():
            stay = np.ones(len(self.ids), bool)
            stay[at[here]] = False
            left = self.kept(stay)
        at = np.searchsorted(left.ids, other.ids) + np.arange(len(other.ids))
        theirs = np.zeros(len(left.ids) + len(other.ids), bool)
        theirs[at] = True
        mine = ~theirs

        def both(kept: NDArray[Any], new: NDArray[Any]) -> NDArray[Any]:
            column = np.empty(len(theirs), kept.dtype)
            column[theirs], column[mine] = new, kept
            return column

        return _Table(
            both(left.ids, other.ids), both(left.codes, other.codes), both(left.rows, other.rows)
        )

    def refuse_repeats(self) -> None:
        same = self.ids[1:] == self.ids[:-1]
        if same.any():
            raise IndexerError(f"item {self.ids[1:][same][0]} is in the lists more than once")


@dataclass(frozen=True)
class ItemLocations:
    """Code and row of every item; immutable.

    In the small table, code and row -1 say that an item of the big one is nowhere.
    """

    _big: _Table
    _small: _Table
    _struck_C: NDArray[np.bool_]

    @classmethod
    def of(cls, lists: Sequence[Ids]) -> ItemLocations:
        """From the ids of every code's list, in the order of their rows.

        Raises:
            IndexerError: if an item is in two lists.
        """
        table = _Table.of(dict(enumerate(lists)))
        table.refuse_repeats()
        return cls(table, _Table.of({}), np.zeros(len(lists), bool))

    @property
    def nbytes(self) -> int:
        """Memory of the tables."""
        tables = (self._big, self._small)
        return sum(t.ids.nbytes + t.codes.nbytes + t.rows.nbytes for t in tables)

    def locate(self, item_ids: Ids) -> tuple[Ids, Ids]:
        """Code and row of each item, int64 (n,); -1, -1 for an unknown one."""
        here, at = self._big.find(item_ids)
        codes, rows = np.full(len(item_ids), -1), np.full(len(item_ids), -1)
        if here.any():
            found = at[here]
            live = ~self._struck_C[self._big.codes[found]]
            codes[here] = np.where(live, self._big.codes[found], -1)
            rows[here] = np.where(live, self._big.rows[found], -1)
        if len(self._small.ids):
            here, at = self._small.find(item_ids)
            codes[here], rows[here] = self._small.codes[at[here]], self._small.rows[at[here]]
        return codes, rows

    def replaced(self, lists: Mapping[int, Ids]) -> ItemLocations:
        """With other lists for some codes.

        Raises:
            IndexerError: if an item is then in two lists.
        """
        struck_C = self._struck_C.copy()
        struck_C[list(lists)] = True
        out = np.isin(self._small.codes, list(lists))
        nowhere = (np.where(out, np.int32(-1), x) for x in (self._small.codes, self._small.rows))
        left = ItemLocations(self._big, _Table(self._small.ids, *nowhere), struck_C)
        new = _Table.of(lists)
        new.refuse_repeats()
        known = left.locate(new.ids)[0] >= 0
        if known.any():
            raise IndexerError(f"item {new.ids[known][0]} is in the lists more than once")
        return left._with(new)

    def moved(self, item_ids: Ids, codes: Ids, rows: Ids) -> ItemLocations:
        """With items, each once, at these places, wherever they were before."""
        order = np.argsort(item_ids, kind="stable")
        return self._with(
            _Table(item_ids[order], codes[order].astype(np.int32), rows[order].astype(np.int32))
        )

    def _with(self, new: _Table) -> ItemLocations:
        small = self._small.overridden(new)
        if len(small.ids) * LARGEST_SHARE <= len(self._big.ids):
            return replace(self, _small=small)
        big = self._big
        if self._struck_C.any():
            big = big.kept(~self._struck_C[big.codes])
        big = big.overridden(small)
        if (small.codes < 0).any():
            big = big.kept(big.codes >= 0)
        return ItemLocations(big, _Table.of({}), np.zeros(len(self._struck_C), bool))
