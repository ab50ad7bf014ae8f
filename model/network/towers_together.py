"""All members' user towers at once: for a GPU, to which each operation costs a launch.

The same as `UserTower.encode`, `queries`, `contexts` and its call for each member, with the
parameters of all side by side: they are copied into one array at the beginning of a step, in one
operation, and their gradients come back by views of it.

Shapes: as in `user_tower`, and M members, d = D / M, A attention heads, F weights of evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model import launches
from model.network.user_tower import HEADS, UserTower
from model.ranks import Share
from streaming.events import HISTORY_LENGTH


class TogetherUsers(NamedTuple):
    """What is made of B histories.

    Attributes:
        state_BD: states of all members, side by side.
        context_BCD: what their attention reads for each query, side by side.
        vectors_MBCd: their user vectors.
        evidence_MBF: their weights of evidence.
    """

    state_BD: Tensor
    context_BCD: Tensor
    vectors_MBCd: Tensor
    evidence_MBF: Tensor


def together(modules: Sequence[nn.Module]) -> dict[str, Tensor]:
    """Parameters of modules of one kind by name, (M, ...)."""
    named = [dict(module.named_parameters()) for module in modules]
    flat_X = torch.cat([p.flatten() for parameters in named for p in parameters.values()])
    sizes = [p.numel() for p in named[0].values()]
    parts = flat_X.view(len(modules), -1).split(sizes, dim=1)
    return {
        name: part.unflatten(1, p.shape)
        for (name, p), part in zip(named[0].items(), parts, strict=True)
    }


def dropped(x: Tensor, dropout: float, share: Share, dim: int) -> Tensor:
    """Dropout of the own entries of a dimension, by draws that are those of all ranks'."""
    if share.ranks == 1:
        return F.dropout(x, dropout)
    shape = list(x.shape)
    shape[dim] = share.total
    shown = F.dropout(x.new_ones(shape), dropout)
    return x * shown.narrow(dim, share.first, share.end - share.first)


def users_together(
    towers: Sequence[UserTower],
    evidence: Sequence[nn.Module],
    z_BLD: Tensor,
    bucket_BL: Tensor,
    known_BL: Tensor,
    asking_CD: Tensor,
    codes: int,
    dropout: float,
    share: Share,
) -> TogetherUsers:
    """Users of all members, in training.

    Args:
        towers: one for each member.
        evidence: what makes weights of a member's state.
        z_BLD: z of the events' items, zero where there is none.
        bucket_BL: `age_buckets`.
        known_BL: where there is an event.
        asking_CD: what is asked of a history; a further row than `codes` makes the vectors of all.
        codes: C.
        dropout: share of values of the mixing network that are hidden.
        share: which of all ranks' users these are.
    """
    p = together([nn.ModuleList(pair) for pair in zip(towers, evidence, strict=True)])
    own = {name.removeprefix("0."): value for name, value in p.items()}
    batch, length = known_BL.shape
    members, d = own["start_D"].shape

    def linear(x_MXi: Tensor, name: str) -> Tensor:
        weight_Mio = own[f"{name}.weight"].transpose(1, 2)
        return torch.baddbmm(own[f"{name}.bias"].unsqueeze(1), x_MXi, weight_Mio)

    def norm(x: Tensor, name: str) -> Tensor:
        shape = (members, *(1,) * (x.dim() - 2), d)
        weight, bias = own[f"{name}.weight"].view(shape), own[f"{name}.bias"].view(shape)
        return torch.addcmul(bias, F.layer_norm(x, (d,)), weight)

    z_MBLd = z_BLD.unflatten(2, (members, d)).permute(2, 0, 1, 3)
    start_MB1d = own["start_D"].view(members, 1, 1, d).expand(-1, batch, -1, -1)
    tokens_MBEd = torch.cat([start_MB1d, z_MBLd], dim=2)
    tokens_MXd = tokens_MBEd.flatten(1, 2)
    age_MXa = own["age.weight"].index_select(1, bucket_BL.flatten())
    # the start has the last rank, and no age
    rank_E = torch.tensor([HISTORY_LENGTH, *range(length - 1, -1, -1)])
    rank_MEa = own["rank.weight"].index_select(1, launches.on(z_BLD.device, rank_E))
    age_MBEa = F.pad(age_MXa.unflatten(1, (batch, length)), (0, 0, 1, 0))
    bias_MBEa = age_MBEa + rank_MEa.unsqueeze(1)
    absent_BE1 = F.pad(~known_BL, (1, 0)).unsqueeze(2)
    bias_MBEa = bias_MBEa.masked_fill(absent_BE1, float("-inf"))
    bias_MBEA, code_bias_MBE1 = bias_MBEa.split([HEADS, 1], dim=3)
    content_MXA = linear(linear(tokens_MXd, "content.0").tanh(), "content.2")
    weights_MBEA = (content_MXA.view(members, batch, -1, HEADS) + bias_MBEA).softmax(2)
    pooled_MBAd = weights_MBEA.transpose(2, 3) @ tokens_MBEd
    mixed_MBh = F.gelu(linear(pooled_MBAd.flatten(2), "mix.0"))
    mixed_MBh = dropped(mixed_MBh, dropout, share, 1)
    base_MBd = pooled_MBAd.mean(2) + linear(mixed_MBh, "mix.3")
    state_MBd = norm(base_MBd, "norm")

    query_MCd = linear(asking_CD.expand(members, -1, -1), "query") * d**-0.5
    keys_MXd = linear(tokens_MXd, "keys")
    logits_MBEC = (keys_MXd @ query_MCd.transpose(1, 2)).view(members, batch, length + 1, -1)
    attention_MBEC = (logits_MBEC + code_bias_MBE1).softmax(2)
    context_MBCd = attention_MBEC.transpose(2, 3) @ tokens_MBEd
    gain_M11d = own["context_gain_D"].view(members, 1, 1, d)
    one = context_MBCd.shape[2] > codes
    read_MBCd = context_MBCd[:, :, codes:] if one else context_MBCd
    vectors_MBCd = norm(torch.addcmul(base_MBd.unsqueeze(2), read_MBCd, gain_M11d), "output_norm")
    weights = {name.removeprefix("1."): value for name, value in p.items()}
    evidence_MBF = torch.baddbmm(
        weights["bias"].unsqueeze(1), state_MBd, weights["weight"].transpose(1, 2)
    )
    return TogetherUsers(
        state_MBd.transpose(0, 1).flatten(1),
        context_MBCd[:, :, :codes].permute(1, 2, 0, 3).flatten(2),
        vectors_MBCd.expand(-1, -1, codes, -1),
        evidence_MBF,
    )
