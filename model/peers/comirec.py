"""ComiRec-SA: several interests by self-attention (Cen et al., KDD 2020).

Shapes: B users, L history length, K interests, D dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.peers.softmax_retriever import Encoder, HistoryTensors
from streaming.events import HISTORY_LENGTH

INTERESTS = 4


class SelfAttentiveInterests(Encoder):
    """K attention weights over the history give K vectors; a target trains the nearest one.

    User vectors are normalised, without which interests cannot be merged by score.
    """

    def __init__(self, dimension: int, dropout: float) -> None:
        super().__init__()
        self.start_D = nn.Parameter(torch.randn(dimension) * 0.02)
        self.position = nn.Embedding(HISTORY_LENGTH, dimension)
        nn.init.normal_(self.position.weight, std=0.02)
        self.attention = nn.Sequential(
            nn.Linear(dimension, 4 * dimension), nn.Tanh(), nn.Linear(4 * dimension, INTERESTS)
        )
        self.norm = nn.LayerNorm(dimension)

    def forward(self, history: HistoryTensors) -> Tensor:
        """User vectors, (B, K, D)."""
        batch, length, _ = history.vectors_BLD.shape
        start_B1D = self.start_D.expand(batch, 1, -1)
        from_end_L = torch.arange(length - 1, -1, -1, device=start_B1D.device)
        placed_BLD = history.vectors_BLD + self.position(from_end_L)
        weights_BLK = self.attention(torch.cat([start_B1D, placed_BLD], dim=1))
        known_BL = torch.cat([history.known_BL.new_ones(batch, 1), history.known_BL], dim=1)
        weights_BLK = weights_BLK.masked_fill(~known_BL[..., None], -torch.inf).softmax(dim=1)
        events_BLD = torch.cat([start_B1D, history.vectors_BLD], dim=1)
        return self.norm(torch.einsum("blk,bld->bkd", weights_BLK, events_BLD))

    def for_target(self, users_BKD: Tensor, target_BD: Tensor) -> Tensor:
        """The interest with the largest inner product with the target (its equation 8)."""
        nearest_B = torch.einsum("bkd,bd->bk", users_BKD, target_BD).argmax(dim=1)
        return users_BKD[torch.arange(len(users_BKD), device=users_BKD.device), nearest_B]
