"""Cross-entropy over the whole catalogue without keeping the scores.

A softmax over N items costs little arithmetic beside its memory traffic: the scores of a batch,
their softmax and its gradient are each B x N. Here the gradients are taken in the forward pass,
on a few rows at a time and in place, so that the scores stay in the processor's cache (the idea
of Wijmans et al., Cut Your Losses, ICLR 2025).

Shapes: B examples, N items, D dimension.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ROWS = 128
"""Rows of scores that are computed at a time."""
LEAST = -60.0
"""Scores further than this below the best of their row are raised to it; e^-60 is nothing."""


class _FullSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, users_BD: Tensor, items_ND: Tensor, targets_B: Tensor) -> Tensor:
        loss = users_BD.new_zeros(())
        users_grad_BD, items_grad_ND = torch.empty_like(users_BD), torch.zeros_like(items_ND)
        for start in range(0, len(users_BD), ROWS):
            rows = slice(start, start + ROWS)
            users_RD, targets_R1 = users_BD[rows], targets_B[rows, None]
            scores_RN = users_RD @ items_ND.T
            scores_RN -= scores_RN.amax(dim=1, keepdim=True)
            loss -= scores_RN.gather(1, targets_R1).sum()
            # exp of less gives denormal numbers, on which processors are 100 times slower.
            total_R1 = scores_RN.clamp_(min=LEAST).exp_().sum(dim=1, keepdim=True)
            loss += total_R1.log().sum()
            share_RN = scores_RN.div_(total_R1)
            share_RN.scatter_add_(1, targets_R1, -torch.ones_like(total_R1))
            torch.mm(share_RN, items_ND, out=users_grad_BD[rows])
            items_grad_ND.addmm_(share_RN.T, users_RD)
        ctx.save_for_backward(users_grad_BD, items_grad_ND)
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        users_grad_BD, items_grad_ND = ctx.saved_tensors
        return users_grad_BD * gradients[0], items_grad_ND * gradients[0], None


def full_softmax_loss(users_BD: Tensor, items_ND: Tensor, targets_B: Tensor) -> Tensor:
    """Sum over examples of -log softmax(users . items)[target].

    Args:
        users_BD: user vectors, float32.
        items_ND: item vectors, float32. A dimension in which all users are 1 is a bias.
        targets_B: rows of the targets, int64.
    """
    return _FullSoftmax.apply(users_BD, items_ND, targets_B)
