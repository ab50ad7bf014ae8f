from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional as F

from model.network import losses


def test_log_q_is_the_brute_force_probability_of_being_a_candidate() -> None:
    """All micro-batches of three events, and all uniform samples, counted one by one."""
    frequency_S = torch.tensor([0.5, 0.3, 0.2, 0.0], dtype=torch.float64)
    share = 0.25
    expected = torch.zeros(4, dtype=torch.float64)
    for events in itertools.product(range(4), repeat=3):
        chance = torch.prod(frequency_S[list(events)])
        for item in range(4):
            expected[item] += chance * (1.0 if item in events else share)
    got = losses.log_inclusion(frequency_S, 3, share)
    assert torch.allclose(got, expected.log().float(), atol=1e-6)


def test_with_log_q_the_sampled_softmax_estimates_the_full_one_and_without_it_does_not() -> None:
    torch.manual_seed(0)
    items, draws, share = 40, 24, 0.3
    logits = torch.randn(items, dtype=torch.float64) * 2
    frequency = torch.softmax(torch.randn(items, dtype=torch.float64) * 1.5, 0)
    full = torch.logsumexp(logits, 0).exp()
    log_q = losses.log_inclusion(frequency, draws, share).double()
    corrected, plain = 0.0, 0.0
    rounds = 20_000
    drawn = torch.multinomial(frequency, rounds * draws, replacement=True).view(rounds, draws)
    inside = torch.zeros(rounds, items, dtype=torch.bool)
    inside[torch.arange(rounds)[:, None], drawn] = True
    inside |= torch.rand(rounds, items) < share
    corrected = (torch.exp(logits - log_q) * inside).sum(1).mean()
    plain = (torch.exp(logits) * inside).sum(1).mean()
    assert corrected == pytest.approx(float(full), rel=0.02)
    assert abs(float(plain / full) - 1) > 0.1


def test_another_event_on_the_same_item_is_no_negative() -> None:
    user_BD, item_BD = torch.eye(3), torch.eye(3)
    same = losses.contrastive(user_BD, item_BD, torch.tensor([7, 7, 9]), torch.zeros(3), 1.0)
    by_hand = torch.stack(
        [
            F.cross_entropy(torch.tensor([[1.0, 0.0]]), torch.tensor([0])),
            F.cross_entropy(torch.tensor([[1.0, 0.0]]), torch.tensor([0])),
            F.cross_entropy(torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([2])),
        ]
    ).mean()
    assert torch.isclose(same, by_hand)


def test_in_batch_contrast_is_corrected_by_the_items_frequency() -> None:
    """Subtracting log Q is dividing each candidate's weight by its expected number of draws."""
    user_BD, item_BD = torch.randn(3, 4), torch.randn(3, 4)
    q_B = torch.tensor([0.5, 2.0, 1.0])
    ids = torch.arange(3)
    loss = losses.contrastive(user_BD, item_BD, ids, q_B.log(), 0.7)
    weight_BB = torch.exp(user_BD @ item_BD.T / 0.7) / q_B
    by_hand = -(weight_BB.diagonal() / weight_BB.sum(1)).log().mean()
    assert torch.isclose(loss, by_hand, atol=1e-6)


def test_bpr_prefers_the_vector_of_the_right_code() -> None:
    item_BD = torch.tensor([[1.0, 0.0]])
    good, bad = torch.tensor([[2.0, 0.0]]), torch.tensor([[-2.0, 0.0]])
    right = losses.shuffled_code_ranking(((good - bad) * item_BD).sum(1))
    assert right < losses.shuffled_code_ranking(((bad - good) * item_BD).sum(1))
    assert torch.isclose(right, F.softplus(torch.tensor(-4.0)))


def test_binary_cross_entropy_is_the_usual_one() -> None:
    positive, negative = torch.tensor([1.5]), torch.tensor([-0.5])
    usual = F.binary_cross_entropy_with_logits(
        torch.cat([positive, negative]), torch.tensor([1.0, 0.0]), reduction="sum"
    )
    assert torch.isclose(losses.binary_cross_entropy(positive, negative), usual)


def test_reconstruction_contrast_is_lowest_for_the_own_reconstruction() -> None:
    z_BD = torch.randn(6, 8)
    ids = torch.arange(6)
    own = losses.reconstruction_contrastive(z_BD, z_BD * 3, ids)
    others = losses.reconstruction_contrastive(z_BD, z_BD.roll(1, 0), ids)
    assert own < others


def test_quantization_pulls_the_reconstruction_to_z_and_not_z_to_the_reconstruction() -> None:
    z_SD = torch.randn(5, 4, requires_grad=True)
    reconstruction_SD = torch.randn(5, 4, requires_grad=True)
    sum_SD = torch.randn(5, 4)
    losses.quantization(z_SD, reconstruction_SD, z_SD.detach(), sum_SD).backward()
    assert reconstruction_SD.grad is not None and reconstruction_SD.grad.abs().sum() > 0
    assert z_SD.grad is None or z_SD.grad.abs().sum() == 0
