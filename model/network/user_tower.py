"""The user tower: one vector per (user, interest code).

Attention over the history whose query is an interest codeword (SPARC, soft search): the same
history answers differently to "hair care" and to "perfume". Decisions where the paper leaves
room: what is attended to are the items' own z, not a projection, so that before anything is
learnt a user vector is already a mean of what the user took; events are weighed by content, by
place from the end and by age (half octaves from an hour to years), because streams have gaps of
minutes and of months; a start vector stands for the empty history; LayerNorm at the end makes
vectors of different codes comparable, so that their scores can be merged.
Shapes: B users, L history length, E = L + 1 tokens (the start is the first), C codes, K codes per
user, D dimension, A attention heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from streaming.events import HISTORY_LENGTH

AGES = 44
HOUR_MS = 3_600_000.0
HEADS = 4
"""Heads that pool the history: several look at different events."""


@dataclass(frozen=True)
class UserTowerConfig:
    """Shape of the user tower.

    Attributes:
        hidden: width of the network that mixes what the heads read.
        dropout: of history vectors in training, and in the mixing network.
        scale: initial gain of the final LayerNorm.
    """

    hidden: int = 128
    dropout: float = 0.5
    scale: float = 1.0


class EncodedHistory(NamedTuple):
    """What the tower keeps of each user.

    Attributes:
        tokens_BED: start vector and the z of the events.
        bias_BE: what place and age add to the attention of every code; -inf where padded.
        base_BD: code-independent user vector before its normalisation.
        state_BD: the same normalised; the summary of the user for whoever needs one.
    """

    tokens_BED: Tensor
    bias_BE: Tensor
    base_BD: Tensor
    state_BD: Tensor


def age_buckets(age_ms: Tensor) -> Tensor:
    """Half octaves of hours; 0 is under half an hour or the future.

    >>> age_buckets(torch.tensor([0.0, 3.6e6, 86.4e6])).tolist()
    [0, 2, 9]
    """
    octaves = torch.log2(1 + age_ms.clamp(min=0) / HOUR_MS)
    return (2 * octaves).long().clamp(max=AGES - 1)


class UserTower(nn.Module):
    """History encoder and code-conditioned attention."""

    def __init__(self, dimension: int, codeword: int, config: UserTowerConfig) -> None:
        super().__init__()
        d, a = dimension, HEADS
        self.start_D = nn.Parameter(torch.randn(d).mul_(0.02))
        self.content = nn.Sequential(nn.Linear(d, d), nn.Tanh(), nn.Linear(d, a))
        # one head more: that of the codes
        self.age = nn.Embedding(AGES, a + 1)
        self.rank = nn.Embedding(HISTORY_LENGTH + 1, a + 1)
        for table in (self.age, self.rank):
            nn.init.zeros_(table.weight)
        self.mix = nn.Sequential(
            nn.Linear(a * d, config.hidden),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, d),
        )
        self.norm = nn.LayerNorm(d)
        self.keys = nn.Linear(d, d)
        self.query = nn.Linear(codeword, d)
        self.context_gain_D = nn.Parameter(torch.zeros(d))
        self.output_norm = nn.LayerNorm(d)
        nn.init.constant_(self.output_norm.weight, config.scale)

    def encode(
        self, z_BLD: Tensor, bucket_BL: Tensor, known_BL: Tensor, shown_Bh: Tensor | None = None
    ) -> EncodedHistory:
        """Encode histories.

        Args:
            z_BLD: z of the events' items.
            bucket_BL: `age_buckets`.
            known_BL: where there is an event.
            shown_Bh: by what dropout multiplies the mixing network's hidden values; None: it is
                drawn, in training.
        """
        batch, length, _ = z_BLD.shape
        start_B1D = self.start_D.expand(batch, 1, -1)
        tokens_BED = torch.cat([start_B1D, z_BLD * known_BL.unsqueeze(2)], dim=1)
        places_L = torch.arange(length - 1, -1, -1, device=z_BLD.device)
        bias_BLa = self.age(bucket_BL) + self.rank(places_L)
        start_B1a = self.rank.weight[-1].expand(batch, 1, -1)
        bias_BEa = torch.cat([start_B1a, bias_BLa], dim=1)
        absent_BE1 = ~F.pad(known_BL, (1, 0), value=True).unsqueeze(2)
        bias_BEa = bias_BEa.masked_fill(absent_BE1, float("-inf"))
        weights_BEA = (self.content(tokens_BED) + bias_BEa[..., :-1]).softmax(1)
        pooled_BAD = weights_BEA.transpose(1, 2) @ tokens_BED
        base_BD = pooled_BAD.mean(1) + self._mixed(pooled_BAD.flatten(1), shown_Bh)
        return EncodedHistory(tokens_BED, bias_BEa[..., -1], base_BD, self.norm(base_BD))

    def _mixed(self, pooled_BX: Tensor, shown_Bh: Tensor | None) -> Tensor:
        if shown_Bh is None:
            mixed_BD: Tensor = self.mix(pooled_BX)
            return mixed_BD
        linear, activation, _, out = self.mix
        drawn_BD: Tensor = out(activation(linear(pooled_BX)) * shown_Bh)
        return drawn_BD

    def queries(self, codebook_CD: Tensor) -> Tensor:
        """What codewords in quantizer space ask of a history: (C, D)."""
        scale = self.keys.out_features**-0.5
        return self.query(codebook_CD) * scale

    def contexts(self, encoded: EncodedHistory, query_CD: Tensor) -> Tensor:
        """What the attention reads for each of `queries`: (B, C, D)."""
        keys_BED = self.keys(encoded.tokens_BED)
        logits_BCE = query_CD @ keys_BED.transpose(1, 2)
        weights_BCE = torch.softmax(logits_BCE + encoded.bias_BE.unsqueeze(1), dim=2)
        return weights_BCE @ encoded.tokens_BED

    def forward(self, encoded: EncodedHistory, context_BKD: Tensor) -> Tensor:
        """User vectors (B, K, D) of codes, from what their attention read."""
        mixed_BKD = context_BKD * self.context_gain_D
        vectors_BKD: Tensor = self.output_norm(mixed_BKD + encoded.base_BD.unsqueeze(1))
        return vectors_BKD
