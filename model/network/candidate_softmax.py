"""Cross-entropy over all candidates when a user has one vector for each code.

The logit of candidate i, whose first-level code is c, is

    s(u, i) = <user vector of c, z_i> + <evidence weights of u, evidence of i at u's clock>
              + neighbour score of (u, i) - log q_i

Kept whole, the logits of a step are B x S and cost more in memory traffic than in arithmetic. Here
they are made for a few examples at a time, and the gradients are taken in the forward pass, so
that a block stays in the processor's cache (the idea of Wijmans et al., Cut Your Losses, ICLR
2025, with candidates sorted by code). Probabilities are left unnormalised: what they multiply is
divided by their sum instead, which is much smaller. Their sums by code are p(c | u), which teaches
the interest head.

Shapes: B examples, b of a part, S candidates (sorted by code), s of a code, C codes, D dimension, P
features, K neighbours, L excluded, G clocks, R examples of a block, X user vectors handed out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from model.network.candidate_layout import LEAST, OUT, Layout

TOGETHER = 96
"""Examples of a block where several clocks have fewer: less than a cache's room, and few calls."""


class _CandidateSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, items_SD: Tensor, weights_BP: Tensor, near_BK: Tensor, layout: Layout,
        *users_bCD: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        size = len(weights_BP)
        users_BCD = items_SD.new_empty(size, *users_bCD[0].shape[1:])
        for part_b, part_bCD in zip(layout.parts, users_bCD, strict=True):
            users_BCD.index_copy_(0, part_b, part_bCD)
        every_B1 = torch.arange(size, device=items_SD.device).unsqueeze(1)
        picked_BXD = users_BCD[every_B1, layout.picked_BX]
        sizes_C = layout.sizes_C.tolist()
        used = [c for c, n in enumerate(sizes_C) if n]
        sizes = [sizes_C[c] for c in used]
        items = items_SD.split(sizes)
        base_S1 = -layout.log_q_S.unsqueeze(1)
        items_grad_SD = torch.zeros_like(items_SD)
        items_grads = items_grad_SD.split(sizes)
        weights_grad_BP = torch.empty_like(weights_BP)
        near_grad_BK = torch.zeros_like(near_BK)
        mass_CB = items_SD.new_zeros(len(sizes_C), size)
        total_B = items_SD.new_empty(size)
        loss = items_SD.new_zeros(())
        blocks = [(layout.clocks[b[0]][0], layout.clocks[b[-1]][1], b)
                  for b in _blocks(layout.clocks)]  # fmt: skip
        # memory that is new is dear to write to: blocks share it, and what the gradients of the
        # user vectors are written over is no longer needed
        room_X = items_SD.new_empty(len(items_SD) * max(end - first for first, end, _ in blocks))
        for first, end, clocks in blocks:
            rows = slice(first, end)
            r = end - first
            column_R = torch.arange(r, device=items_SD.device)
            scores_SR = room_X[: len(items_SD) * r].view(-1, r)
            by_clock = []
            for g in clocks:
                a, e = layout.clocks[g]
                scores_Sr = scores_SR[:, a - first : e - first]
                by_clock.append((layout.features_GSP[g], slice(a, e), scores_Sr))
            for features_SP, own, scores_Sr in by_clock:
                torch.addmm(base_S1, features_SP, weights_BP[own].T, out=scores_Sr)
            scores = scores_SR.split(sizes)
            users_CRD = users_BCD[rows].transpose(0, 1)
            users = [users_CRD[c] for c in used]
            for user_RD, scores_sR, items_sD in zip(users, scores, items, strict=True):
                scores_sR.addmm_(items_sD, user_RD.T)
            flat_X = scores_SR.view(-1)
            near_rK = layout.near_BK[rows]
            there_rK = near_rK >= 0
            place_rK = near_rK.clamp(min=0) * r + column_R.unsqueeze(1)
            flat_X.index_add_(0, place_rK.flatten(), (near_BK[rows] * there_rK).flatten())
            out_rL = layout.excluded_BL[rows]
            flat_X[(out_rL * r + column_R.unsqueeze(1))[out_rL >= 0]] = OUT
            best_R = scores_SR.amax(0)
            scores_SR -= best_R
            target_R = layout.target_B[rows] * r + column_R
            loss -= flat_X[target_R].sum()
            scores_SR.clamp_(min=LEAST).exp_()
            masses = mass_CB[:, rows].unbind(0)
            for c, scores_sR in zip(used, scores, strict=True):
                torch.sum(scores_sR, 0, out=masses[c])
            total_R = mass_CB[:, rows].sum(0)
            loss += total_R.log().sum()
            total_B[rows] = total_R
            flat_X[target_R] -= total_R
            near_grad_BK[rows] = flat_X[place_rK] * there_rK
            for features_SP, own, scores_Sr in by_clock:
                # the product of the other order takes six times as long
                weights_grad_BP[own] = (features_SP.T @ scores_Sr).T
            shares_CRD = users_CRD / total_R.unsqueeze(1)
            for c, user_RD, scores_sR, items_sD, items_grad_sD in zip(
                used, users, scores, items, items_grads, strict=True
            ):
                items_grad_sD.addmm_(scores_sR, shares_CRD[c])
                torch.mm(scores_sR.T, items_sD, out=user_RD)
        if len(used) < len(sizes_C):
            users_BCD[:, [c for c, n in enumerate(sizes_C) if not n]] = 0
        whole_B1 = (total_B * size).unsqueeze(1)
        ctx.layout = layout
        ctx.save_for_backward(
            items_grad_SD.div_(size), weights_grad_BP.div_(whole_B1),
            near_grad_BK.div_(whole_B1), users_BCD, whole_B1,
        )  # fmt: skip
        mass_BC = (mass_CB / total_B).T.contiguous()
        ctx.mark_non_differentiable(mass_BC)
        return loss / size, mass_BC, picked_BXD

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        *of_loss, users_BCD, whole_B1 = ctx.saved_tensors
        layout = ctx.layout
        # they were made for this, and large arrays are dear to make
        users_BCD.mul_((gradients[0] / whole_B1).unsqueeze(2))
        every_B = torch.arange(len(users_BCD), device=users_BCD.device)
        for picked_B, gradient_BD in zip(
            layout.picked_BX.unbind(1), gradients[2].unbind(1), strict=True
        ):  # one vector of an example at a time: two threads would add to the same one in any order
            users_BCD.index_put_((every_B, picked_B), gradient_BD, accumulate=True)
        users = (users_BCD.index_select(0, part_b) for part_b in layout.parts)
        return *(x.mul_(gradients[0]) for x in of_loss), None, *users


def _blocks(clocks: list[tuple[int, int]]) -> list[list[int]]:
    """Consecutive clocks, by number, taken together up to `TOGETHER` examples."""
    blocks: list[list[int]] = []
    for g, (_, end) in enumerate(clocks):
        if blocks and end - clocks[blocks[-1][0]][0] <= TOGETHER:
            blocks[-1].append(g)
        else:
            blocks.append([g])
    return blocks


def candidate_softmax(
    users_bCD: list[Tensor], items_SD: Tensor, weights_BP: Tensor, near_BK: Tensor, layout: Layout
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean of -log softmax(s)[target], each code's share of the probability, and user vectors.

    Args:
        users_bCD: user vectors of `layout.parts` for each code, float32.
        items_SD: candidates sorted by code, float32.
        weights_BP: weights of the evidence, float32.
        near_BK: what each neighbour adds to its logit, float32.
        layout: the rest.

    Returns:
        The loss; shares (B, C) without a gradient; the user vectors (B, X, D) of `picked_BX`,
        whose gradient joins that of the loss: alone it would be a copy of all of them.
    """
    loss, mass_BC, picked_BXD = _CandidateSoftmax.apply(
        items_SD, weights_BP, near_BK, layout, *users_bCD
    )
    return loss, mass_BC, picked_BXD
