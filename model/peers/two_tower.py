"""Two towers: pooled history against item vectors (Covington et al., RecSys 2016).

Shapes: B users, L history length, D dimension, A attention heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.peers.softmax_retriever import AGE_BUCKETS, Encoder, HistoryTensors
from streaming.events import HISTORY_LENGTH

HEADS = 4


class PooledHistory(Encoder):
    """Weighted means of the history, weighed by content, age and rank, then a small network.

    Several heads pool different events. A learned start vector stands for an empty history.
    """

    def __init__(self, dimension: int, dropout: float) -> None:
        super().__init__()
        self.start_D = nn.Parameter(torch.randn(dimension) * 0.02)
        self.content = nn.Sequential(
            nn.Linear(dimension, dimension), nn.Tanh(), nn.Linear(dimension, HEADS)
        )
        self.age = nn.Embedding(AGE_BUCKETS, HEADS)
        self.rank = nn.Embedding(HISTORY_LENGTH + 1, HEADS)
        for table in (self.age, self.rank):
            nn.init.zeros_(table.weight)
        self.mix = nn.Sequential(
            nn.Linear(HEADS * dimension, 2 * dimension),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(2 * dimension, dimension),
        )
        self.norm = nn.LayerNorm(dimension)

    def forward(self, history: HistoryTensors) -> Tensor:
        """One user vector, (B, 1, D)."""
        batch, length, _ = history.vectors_BLD.shape
        start_B1D = self.start_D.expand(batch, 1, -1)
        events_BLD = torch.cat([start_B1D, history.vectors_BLD], dim=1)
        known_BL = torch.cat([history.known_BL.new_ones(batch, 1), history.known_BL], dim=1)
        from_end_L = torch.arange(length - 1, -1, -1, device=events_BLD.device)
        bias_BLA = self.age(history.ages_BL) + self.rank(from_end_L)
        oldest_B1A = self.rank.weight[-1].expand(batch, 1, -1)
        weights_BLA = self.content(events_BLD) + torch.cat([oldest_B1A, bias_BLA], dim=1)
        weights_BLA = weights_BLA.masked_fill(~known_BL[..., None], -torch.inf).softmax(dim=1)
        pooled_BAD = torch.einsum("bla,bld->bad", weights_BLA, events_BLD)
        return self.norm(pooled_BAD.mean(dim=1) + self.mix(pooled_BAD.flatten(1)))[:, None]
