"""SASRec: causal self-attention over the history (Kang & McAuley, ICDM 2018).

Trained by full-softmax cross-entropy, which lifts it well above its published figures (Klenitskiy
& Vasilev, RecSys 2023). Shapes: B users, L history length, D dimension, A attention heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.peers.softmax_retriever import Encoder, HistoryTensors
from streaming.events import HISTORY_LENGTH

LAYERS = 2
HEADS = 2


class _Block(nn.Module):
    """Self-attention and a feed-forward layer, each normalised before and added after."""

    def __init__(self, dimension: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dimension)
        self.project = nn.Linear(dimension, 3 * dimension)
        self.merge = nn.Linear(dimension, dimension)
        self.feed_norm = nn.LayerNorm(dimension)
        self.feed = nn.Sequential(
            nn.Linear(dimension, 2 * dimension), nn.GELU(), nn.Linear(2 * dimension, dimension)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BLD: Tensor, visible_B1LL: Tensor) -> Tensor:
        batch, length, dimension = x_BLD.shape
        query, key, value = (
            part.view(batch, length, HEADS, -1).transpose(1, 2)
            for part in self.project(self.attention_norm(x_BLD)).chunk(3, dim=-1)
        )
        attended_BALD = F.scaled_dot_product_attention(query, key, value, attn_mask=visible_B1LL)
        attended_BLD = attended_BALD.transpose(1, 2).reshape(batch, length, dimension)
        x_BLD = x_BLD + self.dropout(self.merge(attended_BLD))
        return x_BLD + self.dropout(self.feed(self.feed_norm(x_BLD)))


class CausalAttention(Encoder):
    """Two transformer blocks; the state at the newest event is the user vector.

    A start token stands before the oldest event, so that first events are trained too; positions
    are counted back from the newest event.
    """

    def __init__(self, dimension: int, dropout: float) -> None:
        super().__init__()
        self.start_D = nn.Parameter(torch.randn(dimension) * 0.02)
        self.position = nn.Embedding(HISTORY_LENGTH, dimension)
        nn.init.normal_(self.position.weight, std=0.02)
        self.blocks = nn.ModuleList([_Block(dimension, dropout) for _ in range(LAYERS)])
        self.norm = nn.LayerNorm(dimension)

    def forward(self, history: HistoryTensors) -> Tensor:
        """One user vector, (B, 1, D)."""
        batch, length, _ = history.vectors_BLD.shape
        device = history.vectors_BLD.device
        from_end_L = torch.arange(length - 1, -1, -1, device=device)
        placed_BLD = history.vectors_BLD + self.position(from_end_L)
        x_BLD = torch.cat([self.start_D.expand(batch, 1, -1), placed_BLD], dim=1)
        known_BL = torch.cat([history.known_BL.new_ones(batch, 1), history.known_BL], dim=1)
        causal_LL = torch.ones(length + 1, length + 1, dtype=torch.bool, device=device).tril()
        visible_B1LL = (causal_LL & known_BL[:, None, :])[:, None]
        for block in self.blocks:
            x_BLD = block(x_BLD, visible_B1LL)
        return self.norm(x_BLD[:, -1:])
