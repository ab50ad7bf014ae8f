from __future__ import annotations

import torch
from torch.nn import functional as F

from model.peers.full_softmax import ROWS, full_softmax_loss


def test_loss_and_gradients_are_those_of_cross_entropy():
    torch.manual_seed(0)
    users_BD = torch.randn(2 * ROWS + 7, 8, requires_grad=True)
    items_ND = torch.randn(300, 8, requires_grad=True)
    targets_B = torch.randint(300, (len(users_BD),))
    wanted = F.cross_entropy(users_BD @ items_ND.T, targets_B, reduction="sum")
    wanted_gradients = torch.autograd.grad(wanted / 3, [users_BD, items_ND])
    loss = full_softmax_loss(users_BD, items_ND, targets_B)
    gradients = torch.autograd.grad(loss / 3, [users_BD, items_ND])
    assert torch.allclose(loss, wanted, rtol=1e-5)
    for ours, theirs in zip(gradients, wanted_gradients, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_large_scores_do_not_overflow():
    items_ND = torch.tensor([[1000.0], [0.0]])
    loss = full_softmax_loss(torch.ones(1, 1), items_ND, torch.tensor([1]))
    assert loss == 1000.0
