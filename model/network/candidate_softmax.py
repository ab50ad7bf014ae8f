"""Cross-entropy over all candidates when a user has one vector for each code.

The logit of candidate i, whose first-level code is c, is

    s(u, i) = <user vector of c, z_i> + <evidence weights of u, evidence of i at u's clock>
              + neighbour score of (u, i) - log q_i

Kept whole, the logits of a step are B x S and cost more in memory traffic than in arithmetic. Here
they are made for one clock's examples at a time, and the gradients are taken in the forward pass,
so that a block stays in the processor's cache (the idea of Wijmans et al., Cut Your Losses, ICLR
2025, with candidates sorted by code). The probabilities also give each code's share of the mass,
p(c | u), which teaches the interest head.

Shapes: B examples, S candidates (sorted by code), C codes, D dimension, P features, K neighbours,
L excluded, G clocks, R examples of a clock.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

LEAST = -60.0
"""Logits further than this below the best are raised to it: denormal numbers are slow."""
OUT = -1e4
"""Logit of what is no candidate."""


class Layout(NamedTuple):
    """What a block of logits is made of, none of it with a gradient.

    Attributes:
        starts_C: first position of each code's candidates, and S at the end: C + 1 numbers.
        code_S: first-level code of each candidate, ascending.
        blocks: runs of examples that share a clock, (first, end).
        features_GSP: evidence of candidates at each clock.
        log_q_S: log-probability of being a candidate.
        barred_X: positions that may not stand against a positive.
        near_BK: positions of neighbours, -1 for none.
        excluded_BL: positions that are no answer, -1 for none; never the target.
        target_B: positions of the positives.
    """

    starts_C: list[int]
    code_S: Tensor
    blocks: list[tuple[int, int]]
    features_GSP: Tensor
    log_q_S: Tensor
    barred_X: Tensor
    near_BK: Tensor
    excluded_BL: Tensor
    target_B: Tensor


class _CandidateSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, users_CBD: Tensor, items_SD: Tensor, weights_BP: Tensor, near_BK: Tensor,
        layout: Layout,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        size = users_CBD.shape[1]
        codes = [
            (c, a, e)
            for c, (a, e) in enumerate(zip(layout.starts_C, layout.starts_C[1:], strict=False))
            if e > a
        ]
        users_grad_CBD = torch.zeros_like(users_CBD)
        items_grad_SD = torch.zeros_like(items_SD)
        weights_grad_BP = torch.empty_like(weights_BP)
        near_grad_BK = torch.zeros_like(near_BK)
        mass_BC = users_CBD.new_zeros(size, len(layout.starts_C) - 1)
        loss = users_CBD.new_zeros(())
        for g, (first, end) in enumerate(layout.blocks):
            rows = slice(first, end)
            r = end - first
            column_R = torch.arange(r, device=items_SD.device)
            scores_SR = torch.addmm(
                -layout.log_q_S.unsqueeze(1), layout.features_GSP[g], weights_BP[rows].T
            )
            for c, a, e in codes:
                scores_SR[a:e].addmm_(items_SD[a:e], users_CBD[c, rows].T)
            flat_X = scores_SR.view(-1)
            near_rK = layout.near_BK[rows]
            there_rK = near_rK >= 0
            place_rK = near_rK.clamp(min=0) * r + column_R.unsqueeze(1)
            flat_X.index_add_(0, place_rK.flatten(), (near_BK[rows] * there_rK).flatten())
            out_rL = layout.excluded_BL[rows]
            out_X = (out_rL * r + column_R.unsqueeze(1))[out_rL >= 0]
            target_R = layout.target_B[rows] * r + column_R
            kept_R = flat_X[target_R]
            flat_X[out_X] = OUT
            scores_SR[layout.barred_X] = OUT
            flat_X[target_R] = kept_R
            best_R = scores_SR.amax(0)
            scores_SR -= best_R
            loss -= flat_X[target_R].sum()
            scores_SR.clamp_(min=LEAST).exp_()
            total_R = scores_SR.sum(0)
            loss += total_R.log().sum()
            scores_SR /= total_R
            mass_BC[rows] = (
                scores_SR.new_zeros(mass_BC.shape[1], r).index_add_(0, layout.code_S, scores_SR).T
            )
            flat_X[target_R] -= 1
            near_grad_BK[rows] = flat_X[place_rK] * there_rK
            torch.mm(scores_SR.T, layout.features_GSP[g], out=weights_grad_BP[rows])
            for c, a, e in codes:
                torch.mm(scores_SR[a:e].T, items_SD[a:e], out=users_grad_CBD[c, rows])
                items_grad_SD[a:e].addmm_(scores_SR[a:e], users_CBD[c, rows])
        ctx.save_for_backward(
            users_grad_CBD.div_(size), items_grad_SD.div_(size), weights_grad_BP.div_(size),
            near_grad_BK.div_(size),
        )  # fmt: skip
        ctx.mark_non_differentiable(mass_BC)
        return loss / size, mass_BC

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        users_CBD, items_SD, weights_BP, near_BK = ctx.saved_tensors
        g = gradients[0]
        return users_CBD * g, items_SD * g, weights_BP * g, near_BK * g, None


def candidate_softmax(
    users_CBD: Tensor, items_SD: Tensor, weights_BP: Tensor, near_BK: Tensor, layout: Layout
) -> tuple[Tensor, Tensor]:
    """Mean of -log softmax(s)[target], and each code's share of the probability (B, C).

    Args:
        users_CBD: user vector of each example for each code, float32.
        items_SD: candidates sorted by code, float32.
        weights_BP: weights of the evidence, float32.
        near_BK: what each neighbour adds to its logit, float32.
        layout: the rest.
    """
    loss, mass_BC = _CandidateSoftmax.apply(users_CBD, items_SD, weights_BP, near_BK, layout)
    return loss, mass_BC
