"""The user tower: one vector per (user, interest code).

Attention over the history whose query is an interest codeword (SPARC, soft search): the same
history answers differently to "hair care" and to "perfume". Decisions where the paper leaves
room: an event is its item's z plus a learned embedding of its place from the end and one of its
age (buckets of half octaves from an hour to years), because streams have gaps of minutes and of
months; a start token stands for the empty history; optional pre-norm transformer blocks let
events see each other first; LayerNorm at the end makes vectors of different codes comparable.
Shapes: B users, L history length, E = L + 1 tokens (the start token is the first), K codes per
user, D dimension, A attention heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from streaming.events import HISTORY_LENGTH

_AGES = 44
_HOUR_MS = 3_600_000.0


@dataclass(frozen=True)
class Config:
    """Shape of the user tower.

    Attributes:
        heads: attention heads; must divide the dimension.
        blocks: transformer blocks under the code-conditioned attention.
        hidden: width of the output MLP.
        dropout: of history vectors in training.
        scale: initial gain of the final LayerNorm.
    """

    heads: int = 2
    blocks: int = 0
    hidden: int = 128
    dropout: float = 0.3
    scale: float = 1.0


class EncodedHistory(NamedTuple):
    """What the tower keeps of each user.

    Attributes:
        keys_BAEd: attention keys, d = D / A.
        values_BAEd: attention values.
        present_BE: False where padded.
        state_BD: query-independent summary of the user.
    """

    keys_BAEd: Tensor
    values_BAEd: Tensor
    present_BE: Tensor
    state_BD: Tensor


def age_buckets(age_ms: Tensor) -> Tensor:
    """Half octaves of hours; 0 is under half an hour or the future.

    >>> age_buckets(torch.tensor([0.0, 3.6e6, 86.4e6])).tolist()
    [0, 2, 9]
    """
    octaves = torch.log2(1 + age_ms.clamp(min=0) / _HOUR_MS)
    return (2 * octaves).long().clamp(max=_AGES - 1)


class UserTower(nn.Module):
    """History encoder and code-conditioned attention."""

    def __init__(self, dimension: int, config: Config) -> None:
        super().__init__()
        if dimension % config.heads:
            raise ValueError(
                f"user_tower.heads is {config.heads}: it must divide the dimension {dimension}"
            )
        d = dimension
        self.heads = config.heads
        self.item = nn.Linear(d, d)
        self.position = nn.Embedding(HISTORY_LENGTH + 1, d)
        self.age = nn.Embedding(_AGES, d)
        self.start_D = nn.Parameter(torch.randn(d) * 0.3)
        for embedding in (self.position, self.age):
            nn.init.normal_(embedding.weight, std=0.1)
        self.input_norm = nn.LayerNorm(d)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                d, config.heads, 2 * d, dropout=0.0, batch_first=True, norm_first=True
            )
            for _ in range(config.blocks)
        )
        self.keys = nn.Linear(d, d)
        self.values = nn.Linear(d, d)
        self.query = nn.Linear(d, d)
        self.state_query_D = nn.Parameter(torch.randn(d) * 0.1)
        self.state = nn.Sequential(nn.Linear(2 * d, d), nn.GELU(), nn.LayerNorm(d))
        self.output = nn.Sequential(
            nn.Linear(3 * d, config.hidden), nn.GELU(), nn.Linear(config.hidden, d)
        )
        self.output_norm = nn.LayerNorm(d)
        nn.init.constant_(self.output_norm.weight, config.scale)

    def encode(self, z_BLD: Tensor, age_BL: Tensor, known_BL: Tensor) -> EncodedHistory:
        """Encode histories: z of the events' items, ages in ms (float), and where they are."""
        batch, length, _ = z_BLD.shape
        buckets_BL = age_buckets(age_BL)
        places_L = torch.arange(length, 0, -1, device=z_BLD.device)
        events_BLD = self.item(z_BLD) + self.position(places_L) + self.age(buckets_BL)
        start_B1D = self.start_D.expand(batch, 1, -1)
        tokens_BED = self.input_norm(torch.cat([start_B1D, events_BLD], dim=1))
        present_BE = F.pad(known_BL, (1, 0), value=True)
        for block in self.blocks:
            tokens_BED = block(tokens_BED, src_key_padding_mask=~present_BE)
        keys_BAEd = self._split(self.keys(tokens_BED))
        values_BAEd = self._split(self.values(tokens_BED))
        query_B1D = self.state_query_D.expand(batch, 1, -1)
        pooled_BD = self._attend(query_B1D, keys_BAEd, values_BAEd, present_BE).squeeze(1)
        newest_BD = tokens_BED[:, -1] * known_BL[:, -1:]
        state_BD = self.state(torch.cat([pooled_BD, newest_BD], dim=1))
        return EncodedHistory(keys_BAEd, values_BAEd, present_BE, state_BD)

    def forward(self, encoded: EncodedHistory, query_BKD: Tensor) -> Tensor:
        """User vectors (B, K, D) for codewords (or reconstructions) in quantizer space."""
        context_BKD = self.contexts(encoded, query_BKD)
        query_BKD = self.query(query_BKD)
        state_BKD = encoded.state_BD.unsqueeze(1).expand_as(context_BKD)
        mixed_BKD = self.output(torch.cat([context_BKD, state_BKD, query_BKD], dim=2))
        return self.output_norm(context_BKD + mixed_BKD)

    def contexts(self, encoded: EncodedHistory, query_BKD: Tensor) -> Tensor:
        """What the attention alone reads for each query: (B, K, D)."""
        return self._attend(
            self.query(query_BKD), encoded.keys_BAEd, encoded.values_BAEd, encoded.present_BE
        )

    def _split(self, x_BED: Tensor) -> Tensor:
        return x_BED.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def _attend(
        self, query_BKD: Tensor, keys_BAEd: Tensor, values_BAEd: Tensor, present_BE: Tensor
    ) -> Tensor:
        query_BAKd = self._split(query_BKD)
        logits_BAKE = query_BAKd @ keys_BAEd.transpose(2, 3) * query_BAKd.shape[3] ** -0.5
        logits_BAKE = logits_BAKE.masked_fill(~present_BE[:, None, None, :], float("-inf"))
        context_BAKd = torch.softmax(logits_BAKE, dim=3) @ values_BAEd
        return context_BAKd.transpose(1, 2).flatten(2)
