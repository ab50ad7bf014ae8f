"""The same lists on a GPU: what `CodeLists` answers, computed where the vectors lie.

`on_gpu` gives lists that `SoftSearch` takes as it takes others. Torch holds the vectors on the
device and answers the scores; what comes back is NumPy. On the CPU nothing of this is imported.
"""

from __future__ import annotations

import numpy as np

from indexer.errors import IndexerError
from indexer.lists.cells import Floats, Ids
from indexer.lists.code_list import CodeList
from indexer.lists.code_lists import CodeLists


def why_no_gpu() -> str | None:
    """Why lists cannot be put on a GPU here; None where they can."""
    try:
        import torch
    except ImportError as error:
        return f"{error.name} is not installed"
    if not torch.cuda.is_available():
        return "no CUDA device is found"
    return None


class GpuCodeList(CodeList):
    """A list whose vectors are on the device, too."""

    __slots__ = ("_matrix",)

    def __init__(self, one: CodeList) -> None:
        import torch

        super().__init__(one.base, one.removed, one.tail)
        vectors = np.concatenate([block.vectors for block in one.blocks])
        self._matrix = torch.from_numpy(vectors).cuda()

    def score(self, first: int, last: int, user_D: Floats, out_n: Floats) -> None:
        """As `CodeList.score`."""
        import torch

        user = torch.from_numpy(np.array(user_D, np.float32)).cuda()
        out_n[:] = (self._matrix[first:last] @ user).cpu().numpy()

    def score_rows(self, rows: Ids, user_D: Floats, out_n: Floats) -> None:
        """As `CodeList.score_rows`."""
        import torch

        user = torch.from_numpy(np.array(user_D, np.float32)).cuda()
        out_n[:] = (self._matrix[torch.from_numpy(rows).cuda()] @ user).cpu().numpy()


def on_gpu(lists: CodeLists) -> CodeLists:
    """The same lists on the device; changes of them (`replaced`, `with_items`) are CPU lists again.

    Raises:
        IndexerError: if there is no GPU, saying what is missing.
    """
    if (reason := why_no_gpu()) is not None:
        raise IndexerError(f"lists cannot be put on a GPU: {reason}")
    return CodeLists(
        [GpuCodeList(one) for one in lists.lists], lists.dimension, lists.item_locations
    )
