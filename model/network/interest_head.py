"""The interest head: log p(c | u) for every first-level code, also those the user never touched.

The logit of a code is a sum of

- the match of the user's interest vector with the code's centroid in the space of z: the same
  vector is trained against items by the user-item contrast, so the head knows a code by its
  items, a code that moves takes its probability along, and a revived one starts where it lies;
- the match of what the code's attention reads in the history (target attention, as in DIN, Zhou
  et al., KDD 2018, with codes in the place of items);
- evidence: how often the code was clicked lately, how much of the history's neighbourhood lies
  in it, and how often the user was there, with weights that depend on the user's state.

Shapes: B users, C codes, D dimension, F kinds of evidence.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model import launches


class InterestHead(nn.Module):
    """Softmax over first-level codes; train with cross-entropy on the target's code."""

    def __init__(self, dimension: int, evidence: int, scale: float) -> None:
        super().__init__()
        d = dimension
        norm = nn.LayerNorm(d)
        nn.init.constant_(norm.weight, scale)
        self.interest = nn.Sequential(nn.Linear(d, d), nn.GELU(), nn.Linear(d, d), norm)
        self.code = nn.Linear(d, d)
        self.evidence = nn.Linear(d, evidence)
        nn.init.zeros_(self.evidence.weight)
        nn.init.constant_(self.evidence.bias, 0.3)

    def reads(self, codebook_CD: Tensor) -> Tensor:
        """What codewords in quantizer space look for in their contexts: (C, D)."""
        found_CD: Tensor = self.code(codebook_CD) * codebook_CD.shape[1] ** -0.5
        return found_CD

    def forward(
        self,
        interest_BD: Tensor,
        state_BD: Tensor,
        context_BCD: Tensor,
        read_CD: Tensor,
        centroid_CD: Tensor,
        evidence_BCF: Tensor,
    ) -> Tensor:
        """Log-probabilities (B, C) float32; each row sums to one.

        Args:
            interest_BD: `interest` of the states.
            state_BD: users' states.
            context_BCD: what each code's attention reads.
            read_CD: see `reads`.
            centroid_CD: first-level codewords in the space of z.
            evidence_BCF: evidence for each code.
        """
        read_BC = (context_BCD * read_CD).sum(2)
        weights_BF1 = self.evidence(state_BD).unsqueeze(2)
        if launches.few(state_BD.device):
            match_BC = torch.addmm(read_BC, interest_BD, centroid_CD.T)
            logits_BC1 = torch.baddbmm(match_BC.unsqueeze(2), evidence_BCF, weights_BF1)
            return torch.log_softmax(logits_BC1.squeeze(2), dim=1)
        match_BC = interest_BD @ centroid_CD.T
        evidence_BC = (evidence_BCF @ weights_BF1.to(evidence_BCF)).squeeze(2)
        return torch.log_softmax(match_BC.float() + read_BC.float() + evidence_BC, dim=1)
