"""MIND: several interests by dynamic routing (Li et al., CIKM 2019).

Shapes: B users, L history length, K interests, D dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.peers.softmax_retriever import Encoder, HistoryTensors
from streaming.events import HISTORY_LENGTH

INTERESTS = 4
ITERATIONS = 3
SHARPNESS = 2.0
"""Power of the label-aware attention."""


class InterestCapsules(Encoder):
    """Behaviour capsules are routed to K interest capsules, three times, with a shared map.

    As in the paper the routing logits start from random numbers, which are drawn once so that a
    user gets the same answer every time, and no gradient flows through the routing weights. All
    users have K interests. Mapped events have unit length and capsules are normalised: squashing
    would send the short vectors of a young embedding table to nothing.
    """

    routing_LK: Tensor

    def __init__(self, dimension: int, dropout: float) -> None:
        super().__init__()
        self.start_D = nn.Parameter(torch.randn(dimension) * 0.02)
        self.map = nn.Linear(dimension, dimension, bias=False)
        self.register_buffer("routing_LK", torch.randn(HISTORY_LENGTH + 1, INTERESTS))
        self.interest = nn.Sequential(
            nn.Linear(dimension, 4 * dimension), nn.ReLU(), nn.Linear(4 * dimension, dimension)
        )
        self.capsule_norm = nn.LayerNorm(dimension)
        self.norm = nn.LayerNorm(dimension)

    def forward(self, history: HistoryTensors) -> Tensor:
        """User vectors, (B, K, D)."""
        batch, length, _ = history.vectors_BLD.shape
        start_B1D = self.start_D.expand(batch, 1, -1)
        events_BLD = torch.cat([start_B1D, history.vectors_BLD], dim=1)
        mapped_BLD = F.normalize(self.map(events_BLD), dim=-1)
        known_BL = torch.cat([history.known_BL.new_ones(batch, 1), history.known_BL], dim=1)
        still_BLD = mapped_BLD.detach()
        newest_LK = self.routing_LK[:length].flip(0)
        logits_BLK = torch.cat([self.routing_LK[-1:], newest_LK]).expand(batch, -1, -1)
        for iteration in range(ITERATIONS):
            weights_BLK = logits_BLK.softmax(dim=2) * known_BL[..., None]
            last = iteration == ITERATIONS - 1
            routed_BLD = mapped_BLD if last else still_BLD
            capsules_BKD = _squash(torch.einsum("blk,bld->bkd", weights_BLK, routed_BLD))
            if not last:
                logits_BLK = logits_BLK + torch.einsum("bld,bkd->blk", still_BLD, capsules_BKD)
        capsules_BKD = self.capsule_norm(capsules_BKD)
        return self.norm(capsules_BKD + self.interest(capsules_BKD))

    def for_target(self, users_BKD: Tensor, target_BD: Tensor) -> Tensor:
        """Label-aware attention: interests weighed by their inner product with the target."""
        match_BK = torch.einsum("bkd,bd->bk", users_BKD, target_BD)
        return torch.einsum("bk,bkd->bd", (SHARPNESS * match_BK).softmax(dim=1), users_BKD)


def _squash(x_BKD: Tensor) -> Tensor:
    """Keep the direction and bring the length below 1."""
    square_BK1 = x_BKD.square().sum(dim=-1, keepdim=True)
    return square_BK1 / (1.0 + square_BK1) * x_BKD / (square_BK1 + 1e-9).sqrt()
