"""Vectors of all items: an embedding of the id, and on request of title and category.

Shapes: N items, T title words, D dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.features import Config as FeaturesConfig
from model.features import hash_features
from streaming.events import Item


class ItemTable(nn.Module):
    """Item vectors as the sum of what is known of an item.

    Args:
        items: the catalogue, in row order.
        dimension: D.
        content: also use title and category.
        id_dropout: share of items whose id embedding is hidden in a training step, so that the
            content learns to stand alone; a new item has nothing else.
    """

    def __init__(
        self, items: Sequence[Item], dimension: int, content: bool, id_dropout: float
    ) -> None:
        super().__init__()
        self.ids_ND = nn.Parameter(torch.randn(len(items), dimension) * 0.02)
        self._id_dropout = id_dropout if content else 0.0
        self._content = content
        if content:
            config = FeaturesConfig()
            features = hash_features(items, config)
            used, words_NT = torch.unique(
                torch.from_numpy(features.words_NT).clamp(min=0), return_inverse=True
            )
            self.register_buffer("words_NT", words_NT, persistent=False)
            self.register_buffer(
                "category_N", torch.from_numpy(features.category_N), persistent=False
            )
            self.words = nn.EmbeddingBag(len(used) + 1, dimension, mode="sum")
            self.register_buffer(
                "word_weights_NT",
                self._word_weights(torch.from_numpy(features.words_NT), words_NT, len(used) + 1),
                persistent=False,
            )
            self.categories = nn.Embedding(config.category_buckets, dimension)
            for table in (self.words, self.categories):
                nn.init.normal_(table.weight, std=0.02)

    @staticmethod
    def _word_weights(buckets_NT: Tensor, words_NT: Tensor, words: int) -> Tensor:
        """Inverse document frequencies, of unit length per title; 0 where there is no word."""
        present_NT = buckets_NT > 0
        counts = torch.bincount(words_NT[present_NT], minlength=words)
        idf = torch.log(len(words_NT) / counts.clamp(min=1).float()) + 1.0
        weights_NT = torch.where(present_NT, idf[words_NT], 0.0)
        return weights_NT / weights_NT.norm(dim=1, keepdim=True).clamp(min=1e-6)

    def forward(self) -> Tensor:
        """Vectors of the whole catalogue, float32 (N, D)."""
        ids_ND: Tensor = self.ids_ND
        if self.training and self._id_dropout:
            kept_N1 = torch.rand(len(ids_ND), 1, device=ids_ND.device) >= self._id_dropout
            ids_ND = ids_ND * kept_N1
        if not self._content:
            return ids_ND
        words_ND = self.words(self.words_NT, per_sample_weights=self.word_weights_NT)
        return ids_ND + words_ND + self.categories(self.category_N)
