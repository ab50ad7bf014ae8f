"""Vectors of all items: an embedding of the id, and on request of title and category.

Shapes: N items, T words of a title, P words of all titles, W distinct words, D dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.tables.item_features import CATEGORY_BUCKETS, hash_features
from streaming.items import Item


class ItemTable(nn.Module):
    """Item vectors as the sum of what is known of an item.

    Args:
        items: the catalogue, in row order.
        dimension: D.
        content: also use title and category.
        id_dropout: share of items whose id embedding is hidden in a training step, so that the
            content learns to stand alone; a new item has nothing else.
    """

    titles_NW: Tensor
    category_N: Tensor

    def __init__(
        self, items: Sequence[Item], dimension: int, content: bool, id_dropout: float
    ) -> None:
        super().__init__()
        self.ids_ND = nn.Parameter(torch.randn(len(items), dimension) * 0.02)
        self._id_dropout = id_dropout if content else 0.0
        self._content = content
        if content:
            features = hash_features(items)
            titles_NW = _titles(torch.from_numpy(features.words_NT))
            category_N = torch.from_numpy(features.category_N)
            self.register_buffer("titles_NW", titles_NW, persistent=False)
            self.register_buffer("category_N", category_N, persistent=False)
            self.words_WD = nn.Parameter(torch.randn(titles_NW.shape[1], dimension) * 0.02)
            self.categories = nn.Embedding(CATEGORY_BUCKETS, dimension)
            nn.init.normal_(self.categories.weight, std=0.02)

    def forward(self) -> Tensor:
        """Vectors of the whole catalogue, float32 (N, D)."""
        ids_ND: Tensor = self.ids_ND
        if self.training and self._id_dropout:
            kept_N1 = torch.rand(len(ids_ND), 1, device=ids_ND.device) >= self._id_dropout
            ids_ND = ids_ND * kept_N1
        if not self._content:
            return ids_ND
        titles_ND = torch.sparse.mm(self.titles_NW, self.words_WD)
        return ids_ND + titles_ND + self.categories(self.category_N)


def _titles(words_NT: Tensor) -> Tensor:
    """Titles as rows of inverse document frequencies of unit length, sparse (N, W used words)."""
    present_NT = words_NT > 0
    used_W, word_P = torch.unique(words_NT[present_NT], return_inverse=True)
    counts_W = torch.bincount(word_P, minlength=len(used_W)).float()
    idf_P = torch.log(len(words_NT) / counts_W)[word_P] + 1.0
    item_P = torch.arange(len(words_NT)).repeat_interleave(present_NT.sum(dim=1))
    length_N = torch.zeros(len(words_NT)).index_add_(0, item_P, idf_P.square()).sqrt()
    shape = (len(words_NT), max(1, len(used_W)))
    entries = torch.stack([item_P, word_P])
    values_P = idf_P / length_N[item_P]
    return torch.sparse_coo_tensor(entries, values_P, shape, check_invariants=True).coalesce()
