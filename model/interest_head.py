"""The interest head: log p(c | u) for every first-level code, also those the user never touched.

The logit of a code is the match of the user's state with the codeword, so that a code that moves
takes its probability along and a revived one starts where it lies, plus evidence: how often the
code was clicked lately, how much of the history's neighbourhood lies in it, and how often the
user was there. Weights of the evidence depend on the user's state.
Shapes: B users, C codes, D dimension, F kinds of evidence.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class InterestHead(nn.Module):
    """Softmax over first-level codes; train with cross-entropy on the target's code."""

    def __init__(self, dimension: int, evidence: int) -> None:
        super().__init__()
        self.user = nn.Sequential(
            nn.Linear(dimension, dimension), nn.GELU(), nn.Linear(dimension, dimension)
        )
        self.code = nn.Linear(dimension, dimension)
        self.evidence = nn.Linear(dimension, evidence)
        nn.init.zeros_(self.evidence.weight)
        nn.init.constant_(self.evidence.bias, 0.3)

    def forward(self, state_BD: Tensor, codebook_CD: Tensor, evidence_BCF: Tensor) -> Tensor:
        """Log-probabilities (B, C) float32; each row sums to one."""
        user_BD = self.user(state_BD)
        match_BC = user_BD @ self.code(codebook_CD).T * codebook_CD.shape[1] ** -0.5
        weights_BF1 = self.evidence(state_BD).unsqueeze(2)
        logits_BC = match_BC.float() + (evidence_BCF @ weights_BF1.to(evidence_BCF)).squeeze(2)
        return torch.log_softmax(logits_BC, dim=1)
