"""The item tower: id, title and category -> z, the item's place in the space of interests.

The paper leaves the features open (SPARC.md, "item tower"). Here z is a sum of vectors: of the
hashed words of the title (over the root of their number), of the category, and of the id. A sum
beat an MLP over the content, and an item's words and category learn from every item that shares
them. An item without events has only its initial id part, small and drawn from (seed, item id),
so its z is its content's. In training the id part of some items is hidden, so that the content
learns to stand alone (DropoutNet, Volkovs et al., NeurIPS 2017). An item without title or category
has a learned stand-in.
Shapes: S items at hand, T title words, D dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model import launches
from model.tables.row_table import RowTable
from model.tables.stable_random import stable_uniform

CONTENT_SCALE = 0.035
"""Half width of the uniform initial word and category vectors: a deviation of 0.02, as is usual."""
ID_SCALE = 0.035
"""The same of the id part: no larger than a word, and enough to break ties of equal contents."""
NOBODY = 1024
"""Rows that take what belongs to no word."""


@dataclass(frozen=True)
class ItemTowerConfig:
    """Sizes of the item tower.

    Attributes:
        dimension: D of z.
        id_dropout: share of items whose id part is hidden in a training step.
        length: length that z is brought to, each member's part by itself; 0 leaves z as it is.
            Then a score is a cosine, and an item is not found for having been seen often (CORE,
            Hou et al., SIGIR 2022).
    """

    dimension: int = 128
    id_dropout: float = 0.3
    length: float = 0.0


class Titles:
    """Title words of S items, weighed.

    Args:
        words_ST: positions among W words, 0 where there is no word.
        idf_W: inverse document frequency of each.

    Attributes:
        words_ST: as given.
        weight_ST: their weights, of length 1 for each item that has any.
        titled_S1: True for items with a word.
    """

    def __init__(self, words_ST: Tensor, idf_W: Tensor) -> None:
        weight_ST = idf_W[words_ST] * (words_ST > 0)
        length_S1 = weight_ST.square().sum(1, keepdim=True)
        self.words_ST = words_ST
        self.weight_ST = weight_ST * length_S1.clamp(min=1e-12).rsqrt()
        self.titled_S1 = length_S1 > 0
        self._words = len(idf_W)

    @cached_property
    def untitled_s(self) -> Tensor:
        """Items without a word."""
        return torch.nonzero(~self.titled_S1.squeeze(1)).squeeze(1)

    @cached_property
    def by_word(self) -> tuple[Tensor, Tensor, Tensor]:
        """Items that have each word, one word after the other, their weights, and the firsts."""
        # buckets fit 16 bits, which are sorted in a third of the time
        flat_X = self.words_ST.flatten().to(torch.int16)
        order_X = torch.argsort(flat_X, stable=True)[int((flat_X == 0).sum()) :]
        word_X = self.words_ST.flatten()[order_X]
        every_W = torch.arange(self._words, device=word_X.device)
        return (
            order_X // self.words_ST.shape[1],
            self.weight_ST.flatten()[order_X],
            torch.searchsorted(word_X, every_W),
        )


class ItemInputs(NamedTuple):
    """What the tower reads of S items.

    Attributes:
        id_SD: id parts.
        titles: with positions in `words_WD`.
        words_WD: word vectors; row 0 is not read.
        category_S: positions in `categories_KD`.
        categories_KD: category vectors; one of them may stand for none.
    """

    id_SD: Tensor
    titles: Titles
    words_WD: Tensor
    category_S: Tensor
    categories_KD: Tensor


def initial_ids(seed: int, item_ids: np.ndarray, config: ItemTowerConfig) -> Tensor:
    """Id parts of items nobody has clicked, from (seed, item id) alone: (N, D) float32."""
    return torch.from_numpy(stable_uniform(seed, item_ids, config.dimension) * ID_SCALE)


class ItemTower(nn.Module):
    """Content plus id. Parameters here are dense; ids, words and categories are `RowTable`s.

    `members` is the number of user towers that read a part of z each.
    """

    def __init__(self, config: ItemTowerConfig, members: int = 1) -> None:
        super().__init__()
        d = config.dimension
        self._length, self._members = config.length, members
        self.no_title_D = nn.Parameter(torch.zeros(d))

    def content(self, inputs: ItemInputs) -> Tensor:
        """The part of z that title and category give, (S, D) float32."""
        titles = inputs.titles
        # each further array as long as this one costs more than what is done with it
        content_SD: Tensor = _WeightedSums.apply(inputs.words_WD, titles)
        category_SD = F.embedding(inputs.category_S, inputs.categories_KD)
        if launches.few(content_SD.device):  # and how many have no title is not asked
            return torch.where(titles.titled_S1, content_SD, self.no_title_D) + category_SD
        no_title_sD = self.no_title_D.expand(len(titles.untitled_s), -1)
        content_SD.index_add_(0, titles.untitled_s, no_title_sD)
        return content_SD.add_(category_SD)

    def forward(self, inputs: ItemInputs) -> Tensor:
        """Z of the items, (S, D) float32."""
        return self.whole(self.content(inputs), inputs.id_SD)

    def whole(self, content_SD: Tensor, id_SD: Tensor) -> Tensor:
        """Z of its two parts, (S, D) float32."""
        z_SD = content_SD + id_SD
        if not self._length:
            return z_SD
        parts_SMd = z_SD.unflatten(1, (self._members, -1))
        return self._length * F.normalize(parts_SMd, dim=2).flatten(1)


class _WeightedSums(torch.autograd.Function):
    """Weighted sums of word vectors, (S, D).

    The gradient of a word is a weighted sum too, of the items that have it: torch's own backward
    pass adds row by row, in twice the time.
    """

    @staticmethod
    def forward(ctx: Any, words_WD: Tensor, titles: Titles) -> Tensor:
        ctx.titles, ctx.words = titles, len(words_WD)
        return F.embedding_bag(
            titles.words_ST, words_WD, mode="sum", per_sample_weights=titles.weight_ST
        )

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if launches.few(gradients[0].device):
            return _by_adding(gradients[0], ctx.titles, ctx.words), None
        item_X, weight_X, first_W = ctx.titles.by_word
        words_grad_WD = F.embedding_bag(
            item_X, gradients[0].contiguous(), first_W, mode="sum", per_sample_weights=weight_X
        )
        return words_grad_WD, None


def _by_adding(grad_SD: Tensor, titles: Titles, words: int) -> Tensor:
    """The gradient of words in few operations; what is added to one row waits for it in turn.

    So places without a word, which are most, add their nothing to rows of their own.
    """
    word_X = titles.words_ST.flatten()
    place_X = torch.arange(len(word_X), device=word_X.device)
    row_X = torch.where(word_X > 0, word_X, words + place_X % NOBODY)
    terms_STD = grad_SD.unsqueeze(1) * titles.weight_ST.unsqueeze(2)
    sums_WD = grad_SD.new_zeros(words + NOBODY, grad_SD.shape[1])
    return sums_WD.index_add_(0, row_X, terms_STD.flatten(0, 1))[:words]


class _PartlyShown(torch.autograd.Function):
    """Id parts of which some are hidden, and some learn: a part of each for every member."""

    @staticmethod
    def forward(ctx: Any, id_SD: Tensor, shown_SM: Tensor, learning_SM: Tensor) -> Tensor:
        ctx.learning_SM = learning_SM
        return _times(id_SD, shown_SM)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return _times(gradients[0], ctx.learning_SM), None, None


def _times(x_SD: Tensor, factor_SM: Tensor) -> Tensor:
    return (x_SD.unflatten(1, (factor_SM.shape[1], -1)) * factor_SM.unsqueeze(2)).flatten(1)


def partly_shown(id_SD: Tensor, shown_SM: Tensor, learning_S: Tensor) -> Tensor:
    """Id parts (S, D) of which each member sees what it is shown.

    Args:
        id_SD: id parts.
        shown_SM: 1 where member m is shown its part of the id, else 0.
        learning_S: False for items whose id part is shown and learns nothing.
    """
    shown_SD: Tensor = _PartlyShown.apply(id_SD, shown_SM, shown_SM * learning_S.unsqueeze(1))
    return shown_SD


def content_rows(
    seed: int, buckets: int, config: ItemTowerConfig, device: torch.device
) -> RowTable:
    """A table of word or category vectors: one row for each bucket, drawn from (seed, bucket).

    Sums of random vectors keep the overlap of titles, so codes mean something from the start.
    """

    def initial(rows_n: np.ndarray) -> Tensor:
        uniform_nD = stable_uniform(seed, rows_n, config.dimension)
        return torch.from_numpy(uniform_nD * CONTENT_SCALE)

    table = RowTable(config.dimension, initial, device)
    table.grow(buckets)
    return table
