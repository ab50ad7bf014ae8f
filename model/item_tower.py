"""The item tower: id, title and category -> z, the item's place in the space of interests.

The paper leaves the features open (SPARC.md, "item tower"). Here z is the sum of a content part,
an MLP over hashed title words and category, and an id part. An item without events has only its
initial id part, small and drawn from (seed, item id), so its z is its content's: neighbours in
text and category lend it their place. An item without title or category has a learned stand-in.
Shapes: S items at hand, T title words, D dimension.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model import features
from model.row_table import RowTable
from model.stable_random import stable_uniform


@dataclass(frozen=True)
class Config:
    """Sizes of the item tower.

    Attributes:
        dimension: D of z.
        hidden: width of the MLP over the content.
        id_scale: half width of the uniform initial id part; breaks ties of equal contents.
        features: the hashed feature spaces.
    """

    dimension: int = 64
    hidden: int = 128
    id_scale: float = 0.02
    features: features.Config = field(default_factory=features.Config)


class ItemInputs(NamedTuple):
    """What the tower reads of S items.

    Attributes:
        id_SD: id parts.
        words_ST: positions in `words_WD`, 0 where there is no word.
        words_WD: word vectors; row 0 is not read.
        category_S: categories' buckets, 0 for none.
    """

    id_SD: Tensor
    words_ST: Tensor
    words_WD: Tensor
    category_S: Tensor


def initial_ids(seed: int, item_ids: np.ndarray, config: Config) -> Tensor:
    """Id parts of items nobody has clicked, from (seed, item id) alone: (N, D) float32."""
    return torch.from_numpy(stable_uniform(seed, item_ids, config.dimension) * config.id_scale)


class ItemTower(nn.Module):
    """Content MLP plus id. Parameters here are dense; id and word tables are `RowTable`s."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        d = config.dimension
        self.category = nn.Embedding(config.features.category_buckets, d)
        nn.init.normal_(self.category.weight, std=0.3)
        self.no_title_D = nn.Parameter(torch.zeros(d))
        self.content = nn.Sequential(
            nn.LayerNorm(2 * d), nn.Linear(2 * d, config.hidden), nn.GELU(),
            nn.Linear(config.hidden, d),
        )  # fmt: skip

    def forward(self, inputs: ItemInputs) -> Tensor:
        """Z of the items, (S, D) float32."""
        count_S1 = (inputs.words_ST > 0).sum(1, keepdim=True)
        sums_SD = F.embedding_bag(inputs.words_ST, inputs.words_WD, mode="sum", padding_idx=0)
        title_SD = sums_SD * count_S1.clamp(min=1).rsqrt()
        title_SD = torch.where(count_S1 > 0, title_SD, self.no_title_D)
        category_SD = self.category(inputs.category_S)
        return self.content(torch.cat([title_SD, category_SD], dim=1)) + inputs.id_SD


def initial_words(seed: int, config: Config, device: torch.device) -> RowTable:
    """The table of word vectors: one row for each bucket, drawn from (seed, bucket).

    Sums of random vectors keep the overlap of titles, so codes mean something from the start.
    """

    def initial(first: int, end: int) -> Tensor:
        buckets = np.arange(first, end)
        return torch.from_numpy(stable_uniform(seed + 1, buckets, config.dimension) * 0.5)

    table = RowTable(config.dimension, initial, device)
    table.grow(config.features.title_buckets)
    return table
