"""The same lists on a GPU: what `CodeLists` answers, computed where the vectors lie.

`on_gpu` gives lists that `SoftSearch` takes as it takes others. Faiss answers the best of a list,
torch the scores of all of it; both hold the vectors on the device, and what comes back is NumPy.
On the CPU nothing of this is imported.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexer.errors import IndexerError
from indexer.lists.code_list import CodeList
from indexer.lists.code_lists import CodeLists

MOST_AT_ONCE = 2048
"""Answers that faiss gives on a GPU; more are found on the CPU, where the vectors are, too."""


def why_no_gpu() -> str | None:
    """Why lists cannot be put on a GPU here; None where they can."""
    try:
        import faiss
        import torch
    except ImportError as error:
        return f"{error.name} is not installed"
    if not hasattr(faiss, "StandardGpuResources"):
        return "this faiss is built without GPU support"
    if not torch.cuda.is_available() or faiss.get_num_gpus() == 0:
        return "no CUDA device is found"
    return None


@lru_cache(maxsize=1)
def _resources() -> Any:
    import faiss

    return faiss.StandardGpuResources()


class GpuCodeList(CodeList):
    """A list whose vectors are on the device, too."""

    __slots__ = ("_index", "_matrix")

    def __init__(self, one: CodeList) -> None:
        import faiss
        import torch

        self._memory, self.removed = one._memory, one.removed
        self.item_ids, self.vectors = one.item_ids, one.vectors
        self._matrix = torch.from_numpy(one.vectors.copy()).cuda()
        self._index = faiss.GpuIndexFlatIP(_resources(), one.vectors.shape[1])
        if len(one.vectors):
            self._index.add(one.vectors)

    def scores(self, users_bD: NDArray[np.float32]) -> NDArray[np.float32]:
        """As `CodeList.scores`."""
        import torch

        users = torch.from_numpy(np.array(users_bD, np.float32)).cuda()
        return (users @ self._matrix.T).cpu().numpy()

    def _first(
        self, user_D: NDArray[np.float32], count: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        if count > MOST_AT_ONCE:
            return super()._first(user_D, count)
        scores, rows = self._index.search(np.ascontiguousarray(user_D[None], np.float32), count)
        return scores[0], rows[0]


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
