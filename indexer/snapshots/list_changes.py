"""`changes.safetensors`: how the lists of a version differ from the files that hold them.

A list whose code has not drifted is not written anew: its file is shared with the version before,
and this file says which of its rows are not in the list any more, and which items are in it that
the file does not hold. Their vectors are the model's.

Shapes: C codes, r removed rows, t items in tails, a absent items.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from indexer.errors import SnapshotError
from indexer.lists.code_list import NO_ROWS
from indexer.lists.code_lists import CodeLists

Ids = NDArray[np.int64]
FIELDS = ("removed_r", "removed_starts_C", "tail_t", "tail_starts_C", "absent_a")


@dataclass(frozen=True)
class ListChanges:
    """What the files of a version's lists do not say.

    Attributes:
        removed_r: int64 rows of files, code by code.
        removed_starts_C: int64 (C + 1), where those of each code begin, and the end.
        tail_t: int64 ids of items, code by code.
        tail_starts_C: int64 (C + 1).
        absent_a: int64 ids, ascending, of the items that the model has learnt and that are not in
            the lists, or not where the model has them: withdrawn, or listed anew.
    """

    removed_r: Ids
    removed_starts_C: Ids
    tail_t: Ids
    tail_starts_C: Ids
    absent_a: Ids

    @classmethod
    def of(cls, lists: CodeLists, absent: Ids) -> ListChanges:
        """Those of lists whose bases are their files."""
        removed, tails = [NO_ROWS], [NO_ROWS]
        for one in lists.lists:
            removed.append(one.removed)
            tails.append(one.tail.item_ids)
        starts = [np.cumsum([len(x) for x in some]) for some in (removed, tails)]
        return cls(np.concatenate(removed), starts[0], np.concatenate(tails), starts[1], absent)

    def removed(self, code: int) -> Ids:
        """Rows of a code's file that are not in its list."""
        return self.removed_r[self.removed_starts_C[code] : self.removed_starts_C[code + 1]]

    def tail(self, code: int) -> Ids:
        """Ids of the items that a code's list holds and its file does not."""
        return self.tail_t[self.tail_starts_C[code] : self.tail_starts_C[code + 1]]

    def save(self, path: Path) -> None:
        """Write a safetensors file.

        Raises:
            OSError: if it cannot be written.
        """
        try:
            save_file({name: np.asarray(getattr(self, name), np.int64) for name in FIELDS}, path)
        except SafetensorError as error:  # wraps what the operating system said
            raise OSError(f"{path}: {error}") from error

    @classmethod
    def load(cls, path: Path, codes: int) -> ListChanges:
        """Read what `save` wrote, after its digest was verified.

        Raises:
            SnapshotError: if it is malformed or of another number of codes.
        """
        try:
            arrays = load_file(path)
        except (OSError, SafetensorError) as error:
            raise SnapshotError(f"{path}: {error}") from error
        if sorted(arrays) != sorted(FIELDS):
            raise SnapshotError(f"{path}: holds {sorted(arrays)}")
        for name, array in arrays.items():
            if array.dtype != np.int64 or array.ndim != 1:
                raise SnapshotError(f"{path}: {name} is {array.dtype} of shape {array.shape}")
        changes = cls(**arrays)
        for starts, end in (
            (changes.removed_starts_C, len(changes.removed_r)),
            (changes.tail_starts_C, len(changes.tail_t)),
        ):
            fits = len(starts) == codes + 1 and starts[0] == 0 and starts[-1] == end
            if not fits or (np.diff(starts) < 0).any():
                raise SnapshotError(f"{path}: does not fit {codes} codes")
        if (np.diff(changes.absent_a) <= 0).any():
            raise SnapshotError(f"{path}: absent items do not ascend")
        return changes
