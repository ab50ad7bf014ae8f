from __future__ import annotations

import pytest
import torch

from model.network.candidate_softmax import Layout, candidate_softmax

CODES, DIMENSION, FEATURES = 4, 5, 2
CODE_S = torch.tensor([0, 0, 1, 1, 1, 3, 3, 3, 3])
TARGET_B = torch.tensor([1, 4, 8, 2, 5])
EXCLUDED_BL = torch.tensor([[2, -1], [-1, -1], [0, 5], [3, 4], [6, -1]])
PICKED_BX = torch.tensor([[0, 1], [1, 1], [3, 0], [1, 2], [3, 3]])
PARTS = [torch.tensor([3, 0]), torch.tensor([1, 4, 2])]
NEAR_BK = torch.tensor([[3, -1, 1], [4, 7, -1], [-1, -1, -1], [2, 0, 5], [5, 5, 8]])


def layout(log_q_S: torch.Tensor, features_GSP: torch.Tensor) -> Layout:
    sizes, clocks = [2, 3, 0, 4], [(0, 2), (2, 5)]
    return Layout(
        sizes,
        clocks,
        features_GSP,
        log_q_S,
        NEAR_BK,
        EXCLUDED_BL,
        TARGET_B,
        PARTS,
        PICKED_BX,
    )


def brute_force(
    users_BCD: torch.Tensor,
    items_SD: torch.Tensor,
    weights_BP: torch.Tensor,
    near_BK: torch.Tensor,
    parts: Layout,
) -> tuple[torch.Tensor, torch.Tensor]:
    losses, masses = [], []
    for b in range(len(TARGET_B)):
        block = 0 if b < parts.clocks[0][1] else 1
        logits = [
            users_BCD[b, code] @ items_SD[s] + weights_BP[b] @ parts.features_GSP[block, s]
            for s, code in enumerate(CODE_S.tolist())
        ]
        logits_S = torch.stack(logits) - parts.log_q_S
        for k, position in enumerate(NEAR_BK[b].tolist()):
            if position >= 0:
                logits_S = logits_S + near_BK[b, k] * (torch.arange(len(CODE_S)) == position)
        out = torch.zeros(len(CODE_S), dtype=torch.bool)
        out[[e for e in EXCLUDED_BL[b].tolist() if e >= 0]] = True
        out[TARGET_B[b]] = False
        log_p_S = torch.log_softmax(logits_S.masked_fill(out, float("-inf")), 0)
        losses.append(-log_p_S[TARGET_B[b]])
        masses.append(torch.zeros(CODES).index_add(0, CODE_S, log_p_S.exp().detach()))
    return torch.stack(losses).mean(), torch.stack(masses)


@pytest.mark.parametrize("together", [2, 96])
def test_loss_gradients_and_masses_are_those_of_the_plain_softmax(
    together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.network.candidate_softmax.TOGETHER", together)
    torch.manual_seed(0)
    values = [
        torch.randn(len(TARGET_B), CODES, DIMENSION),
        torch.randn(len(CODE_S), DIMENSION),
        torch.randn(len(TARGET_B), FEATURES),
        torch.randn(NEAR_BK.shape),
    ]
    parts = layout(torch.randn(len(CODE_S)), torch.randn(2, len(CODE_S), FEATURES))
    own = [v.clone().requires_grad_(True) for v in values]
    plain = [v.clone().requires_grad_(True) for v in values]
    users_bCD = [own[0][part] for part in PARTS]
    loss, mass_BC, picked_BXD = candidate_softmax(users_bCD, *own[1:], parts)
    expected, expected_mass_BC = brute_force(*plain, parts)
    assert torch.allclose(loss, expected, atol=1e-5)
    assert torch.allclose(mass_BC, expected_mass_BC, atol=1e-5)
    expected_BXD = plain[0][torch.arange(len(TARGET_B)).unsqueeze(1), PICKED_BX]
    assert torch.equal(picked_BXD, expected_BXD)
    told_BXD = torch.randn(picked_BXD.shape)
    (3 * loss + (told_BXD * picked_BXD).sum()).backward()
    (3 * expected + (told_BXD * expected_BXD).sum()).backward()
    for one, other in zip(own, plain, strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-5)


def test_the_masses_teach_and_are_not_taught() -> None:
    values = [
        [torch.zeros(len(p), CODES, DIMENSION, requires_grad=True) for p in PARTS],
        torch.zeros(len(CODE_S), DIMENSION),
        torch.zeros(len(TARGET_B), FEATURES),
        torch.zeros(NEAR_BK.shape),
    ]
    parts = layout(torch.zeros(len(CODE_S)), torch.zeros(2, len(CODE_S), FEATURES))
    _, mass_BC, _ = candidate_softmax(*values, parts)
    assert not mass_BC.requires_grad
    assert torch.allclose(mass_BC.sum(1), torch.ones(len(TARGET_B)))
