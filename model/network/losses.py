"""SPARC's six losses, and the log-Q correction of sampled candidates.

The softmax that ranks is in `candidate_softmax`.

Pure functions of tensors, each a mean over the batch. The paper gives only the weight of the
code-shuffle BPR; the other weights are in `sparc_config.LossWeights`.
Shapes: B users (each with a positive item), S candidates, C codes, D dim.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from model import launches

COMMITMENT = 0.1
"""Share of the commitment in the quantizer's loss: a strong pull would freeze the assignments."""
CONTRAST_TEMPERATURE = 0.1
"""Of the reconstruction contrast: cosines, all within 1 of 0, are too near each other without."""


def log_inclusion(frequency_S: Tensor, draws: int, uniform_share: Tensor | float) -> Tensor:
    """Log-probability that an item is among the candidates of a micro-batch: (S,).

    It is there if one of the `draws` events of the micro-batch is on it (`frequency_S` is its
    share of recent events: Yi et al., RecSys 2019) or if the uniform sample of a share of the
    catalogue holds it; items of different kinds may have different shares. Subtracting this from
    its logit (the log-Q correction; Bengio and Senecal 2008) makes the sampled softmax an estimate
    of the full one.

    >>> log_inclusion(torch.tensor([0.0, 0.5]), 1, 0.5).exp().tolist()
    [0.5, 0.75]
    """
    missed_S = torch.pow((1 - frequency_S.double()).clamp(0, 1), draws) * (1 - uniform_share)
    return torch.log((1 - missed_S).clamp(min=1e-9)).float()


def interest_cross_entropy(log_interests_BC: Tensor, code_B: Tensor) -> Tensor:
    """Cross-entropy of the interest head: the target's first-level code (SPARC)."""
    return F.nll_loss(log_interests_BC, code_B)


def distillation(log_interests_BC: Tensor, mass_BC: Tensor) -> Tensor:
    """Cross-entropy of the interest head against the codes' shares of the probability."""
    if launches.few(mass_BC.device):
        return (mass_BC * log_interests_BC).sum() / -len(mass_BC)
    return -(mass_BC * log_interests_BC).sum(1).mean()


def binary_cross_entropy(positive_B: Tensor, negative_B: Tensor) -> Tensor:
    """SPARC's (user, item) loss: logits of true pairs against logits of drawn pairs."""
    return (F.softplus(-positive_B) + F.softplus(negative_B)).mean()


def contrastive(
    user_RD: Tensor,
    item_BD: Tensor,
    item_ids_B: Tensor,
    log_q_B: Tensor,
    temperature: float,
    right_R: Tensor | None = None,
) -> Tensor:
    """User-item contrast with in-batch negatives and log-Q correction.

    Another event on the same item is no negative (it is masked).

    Args:
        user_RD: users.
        item_BD: their items.
        item_ids_B: which items these are.
        log_q_B: log-probability of being drawn.
        temperature: of the softmax.
        right_R: which items are those of the users, where they are not all users; the loss is then
            their part of the mean over all.
    """
    logits_RB = user_RD @ item_BD.T
    if temperature != 1:
        logits_RB = logits_RB / temperature
    return _in_batch(logits_RB.float() - log_q_B, item_ids_B, right_R)


def reconstruction_contrastive(
    z_BD: Tensor, reconstruction_BD: Tensor, item_ids_B: Tensor
) -> Tensor:
    """Item-item contrast between z and its reconstruction, by cosine (SPARC)."""
    left_BD = F.normalize(z_BD.float(), dim=1)
    right_BD = F.normalize(reconstruction_BD.float(), dim=1)
    return _in_batch(left_BD @ right_BD.T / CONTRAST_TEMPERATURE, item_ids_B)


def _in_batch(logits_BB: Tensor, item_ids_B: Tensor, right_R: Tensor | None = None) -> Tensor:
    if right_R is not None:
        same_RB = item_ids_B[right_R].unsqueeze(1) == item_ids_B
        same_RB.scatter_(1, right_R.unsqueeze(1), False)
        logits_RB = logits_BB.masked_fill(same_RB, float("-inf"))
        return F.cross_entropy(logits_RB, right_R, reduction="sum") / len(item_ids_B)
    every_B = torch.arange(len(item_ids_B), device=item_ids_B.device)
    same_BB = item_ids_B.unsqueeze(1) == item_ids_B
    logits_BB = logits_BB.masked_fill(same_BB.fill_diagonal_(False), float("-inf"))
    return F.cross_entropy(logits_BB, every_B)


def shuffled_code_ranking(margin_B: Tensor) -> Tensor:
    """BPR between the user vectors of the right and of a shuffled code (SPARC).

    A margin is how much better the right one matches the item.
    """
    return F.softplus(-margin_B).mean()


def quantization(
    z_SD: Tensor, reconstruction_SD: Tensor, input_SD: Tensor, sum_SD: Tensor
) -> Tensor:
    """RQ-VAE: reconstruction of z, relative to its variance, and commitment to the codewords.

    The codebook's own term, ||sg(x) - q||^2, is minimised in closed form by the moving averages.
    One item alone has no variance; its own square stands for it.
    """
    spread_D = z_SD.detach().var(0) if len(z_SD) > 1 else z_SD.detach().square()
    scale = spread_D.mean().clamp(min=1e-6)
    reconstruction = _mean_square(reconstruction_SD, z_SD.detach()) / scale
    return reconstruction + COMMITMENT * _mean_square(input_SD, sum_SD.detach())


def _mean_square(one: Tensor, other: Tensor) -> Tensor:
    if launches.few(one.device):
        return F.mse_loss(one, other)
    return (one - other).square().mean()
