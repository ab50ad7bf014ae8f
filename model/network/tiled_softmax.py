"""The softmax over candidates in few operations, whatever the number of codes and clocks.

It is `candidate_softmax` of all members, for a GPU. Candidates of a code are laid out in tiles of T
places, the last one padded, so that all codes' products are one batched product over tiles; so are
their gradients'. Examples of a clock are laid out in rows of one length, so that all clocks'
evidence is one batched product, too, of which log q is a further feature. How many tiles there
are at most follows from the numbers of candidates and codes, so nothing is asked of the device.
One tile holds nobody: what has no candidate is written and read there.

Memory: the logits of a block of examples, `BLOCK_BYTES` at most, and up to twice as much beside
them. 4,096 examples against 17,000 candidates of 64 codes are one block of 700 MB for two members;
the number of blocks depends on the size alone. Products are bfloat16 under autocast, and all else
is float32.

Shapes: as in `candidate_layout`, and D dimension, M members, N tiles of T places, X = N T,
R rows of a block, V user vectors handed out.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from model import launches
from model.network.candidate_layout import LEAST, OUT, Layout

BLOCK_BYTES = 2**32
"""Most bytes of a block's logits."""
SMALLEST, LARGEST = 16, 128
"""Places of a tile: below, products are too small; above, too many places are empty."""


class Tiles(NamedTuple):
    """Where candidates and examples are laid out; the same for all members.

    Attributes:
        places: T.
        code_N: code of each tile.
        place_S: where each candidate is among the X places.
        candidate_X: which candidate is at each place, S for none.
        features_GXP: evidence of places at each clock; the last feature is log q.
        near_BK: places of neighbours.
        excluded_BL: places that are no answer.
        target_B1: places of the positives.
        picked_BV: codes whose user vectors are handed out.
        longest: rows of a clock.
        row_B: where each example is among the rows of all clocks.
        example_R: which example is in each row of all clocks, any for none.
        counts_R: one over the number of examples where there is one, else 0.
    """

    places: int
    code_N: Tensor
    place_S: Tensor
    candidate_X: Tensor
    features_GXP: Tensor
    near_BK: Tensor
    excluded_BL: Tensor
    target_B1: Tensor
    picked_BV: Tensor
    longest: int
    row_B: Tensor
    example_R: Tensor
    counts_R: Tensor


def tile_places(candidates: int, codes: int, dimension: int) -> int:
    """T: few places are empty where it is small, and few user vectors copied where it is large.

    >>> tile_places(17_000, 64, 64), tile_places(17_000, 1024, 64), tile_places(9, 4, 5)
    (64, 16, 16)
    """
    best = math.sqrt(0.4 * max(candidates, 1) * dimension / codes)
    return min(max(2 ** round(math.log2(best)), SMALLEST), LARGEST)


def lay_out(layout: Layout, dimension: int) -> Tiles:
    """Tiles of a step.

    Args:
        layout: what is known of the step.
        dimension: D of a member.
    """
    sizes_C = layout.sizes_C
    device = layout.log_q_S.device
    count, codes = len(layout.log_q_S), len(sizes_C)
    places = tile_places(count, codes, dimension)
    tiles = count // places + min(codes, count) + 1  # enough for any sizes, and one for nobody
    ends_C, tile_ends_C = sizes_C.cumsum(0), ((sizes_C + places - 1) // places).cumsum(0)
    number_S = torch.arange(count, device=device)
    code_S = torch.searchsorted(ends_C, number_S, right=True)
    # as many places as are left empty before a code
    empty_C = F.pad(tile_ends_C * places - ends_C, (1, 0))
    place_S = number_S + empty_C[code_S]
    candidate_X = torch.full((tiles * places,), count, device=device)
    candidate_X[place_S] = number_S
    number_N = torch.arange(tiles, device=device)
    code_N = torch.searchsorted(tile_ends_C, number_N, right=True).clamp_(max=codes - 1)
    evidence_GSP = torch.cat(
        [
            layout.features_GSP,
            layout.log_q_S.view(1, -1, 1).expand(len(layout.features_GSP), -1, 1),
        ],
        dim=2,
    )
    features_GXP = evidence_GSP.new_zeros(len(evidence_GSP), tiles * places, evidence_GSP.shape[2])
    features_GXP[:, :, -1] = -OUT
    features_GXP[:, place_S] = evidence_GSP
    # -1, for nobody, answers with the last place
    where_S = F.pad(place_S, (0, 1), value=tiles * places - 1)
    longest, row_B, example_R, counts_R = _rows(layout.clocks)
    where_s = where_S[torch.cat([layout.near_BK, layout.excluded_BL, layout.target_B[:, None]], 1)]
    near_BK, excluded_BL, target_B1 = where_s.split(
        [layout.near_BK.shape[1], layout.excluded_BL.shape[1], 1], dim=1
    )
    return Tiles(
        places=places,
        code_N=code_N,
        place_S=place_S,
        candidate_X=candidate_X,
        features_GXP=features_GXP,
        near_BK=near_BK,
        excluded_BL=excluded_BL,
        target_B1=target_B1,
        picked_BV=layout.picked_BX,
        longest=longest,
        row_B=launches.on(device, row_B),
        example_R=launches.on(device, example_R),
        counts_R=launches.on(device, counts_R),
    )


def _rows(clocks: list[tuple[int, int]]) -> tuple[int, Tensor, Tensor, Tensor]:
    """Rows of a clock; `row_B`, `example_R` and `counts_R` of `Tiles`."""
    sizes_G = np.array([end - first for first, end in clocks])
    longest = int(sizes_G.max())
    there_R = (np.arange(longest) < sizes_G[:, None]).ravel()
    row_B = np.flatnonzero(there_R)
    example_R = np.where(there_R, np.cumsum(there_R) - 1, 0)
    counts_R = torch.from_numpy((there_R / len(row_B)).astype(np.float32))
    return longest, torch.from_numpy(row_B), torch.from_numpy(example_R), counts_R


class _TiledSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, users_MBCD: Tensor, items_MSD: Tensor, weights_MBP: Tensor, near_MBK: Tensor,
        tiles: Tiles,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        device = items_MSD.device.type
        mixed = torch.is_autocast_enabled(device)
        product = torch.get_autocast_dtype(device) if mixed else torch.float32
        with torch.autocast(device, enabled=False):
            *gradients, loss, mass_BC = _forward(
                users_MBCD, items_MSD, weights_MBP, near_MBK, tiles, product
            )
        ctx.tiles = tiles
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(mass_BC)
        return loss, mass_BC, users_MBCD.gather(2, _picked(tiles, users_MBCD))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        users_MBCD, *others = torch._foreach_mul(list(ctx.saved_tensors), gradients[0])
        users_MBCD.scatter_add_(2, _picked(ctx.tiles, users_MBCD), gradients[2])
        return users_MBCD, *others, None


def _picked(tiles: Tiles, users_MBCD: Tensor) -> Tensor:
    """Codes that are handed out, for each member and dimension."""
    members, _, _, dimension = users_MBCD.shape
    return tiles.picked_BV.unsqueeze(2).expand(members, -1, -1, dimension)


def _forward(
    users_MBCD: Tensor, items_MSD: Tensor, weights_MBP: Tensor, near_MBK: Tensor, tiles: Tiles,
    product: torch.dtype,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients of the four, loss, and masses (B, C)."""
    members, size, codes, dimension = users_MBCD.shape
    places, number = tiles.places, len(tiles.code_N)
    clocks, length, n = len(tiles.features_GXP), number * places, tiles.longest
    # zeros where a place is empty
    items_MSD = F.pad(items_MSD, (0, 0, 0, 1)).to(product)
    items_MNTD = items_MSD.index_select(1, tiles.candidate_X).unflatten(1, (number, places))
    items_grad_MNTD = torch.zeros(items_MNTD.shape, device=items_MNTD.device)
    users_MBCD = users_MBCD.to(product)
    weights_MBP = F.pad(weights_MBP, (0, 1), value=-1.0)  # of log q
    done: list[tuple[Tensor, ...]] = []
    together = max(1, BLOCK_BYTES // (4 * members * n * length))
    for first in range(0, clocks, together):
        end = min(clocks, first + together)
        rows = slice(first * n, end * n)
        example_R = tiles.example_R[rows]
        features_gXP = tiles.features_GXP[first:end]
        weights_MgnP = weights_MBP.index_select(1, example_R).unflatten(1, (-1, n))
        users_MNRD = users_MBCD[:, example_R, tiles.code_N.unsqueeze(1)]
        scores_MRX = weights_MBP.new_empty(members, len(example_R), length)
        # tiles first: a view, of which a product needs no copy
        scores_MNRT = scores_MRX.unflatten(2, (number, places)).transpose(1, 2)
        for m in range(members):
            torch.bmm(
                weights_MgnP[m], features_gXP.transpose(1, 2),
                out=scores_MRX[m].unflatten(0, (-1, n)),
            )  # fmt: skip
            items_NDT = items_MNTD[m].transpose(1, 2)
            if product == torch.float32:
                scores_MNRT[m].baddbmm_(users_MNRD[m], items_NDT)
            else:
                scores_MNRT[m].add_(torch.bmm(users_MNRD[m], items_NDT))
        near_MRK = tiles.near_BK.index_select(0, example_R).expand(members, -1, -1)
        scores_MRX.scatter_add_(2, near_MRK, near_MBK.index_select(1, example_R))
        excluded_RL = tiles.excluded_BL.index_select(0, example_R)
        scores_MRX.scatter_(2, excluded_RL.expand(members, -1, -1), OUT)
        scores_MRX -= scores_MRX.amax(2, keepdim=True)
        target_MR1 = tiles.target_B1.index_select(0, example_R).expand(members, -1, -1)
        right_MR1 = scores_MRX.gather(2, target_MR1)
        scores_MRX.clamp_(min=LEAST).exp_()
        mass_MRN = scores_MRX.unflatten(2, (number, places)).sum(3)
        mass_MRC = mass_MRN.new_zeros(members, len(example_R), codes)
        mass_MRC.index_add_(2, tiles.code_N, mass_MRN)
        total_MR1 = mass_MRC.sum(2, keepdim=True)
        scores_MRX.scatter_add_(2, target_MR1, -total_MR1)
        share_MR1 = tiles.counts_R[rows].unsqueeze(1) / total_MR1
        near_grad_MRK = scores_MRX.gather(2, near_MRK) * share_MR1
        shares_MNRD = users_MNRD * share_MR1.unsqueeze(1).to(product)
        product_MNRT = scores_MNRT.to(product)
        weights_grad_MgnP = torch.empty_like(weights_MgnP)
        users_grad_MNRD = torch.empty_like(users_MNRD)
        for m in range(members):
            scores_gnX = scores_MRX[m].unflatten(0, (-1, n))
            torch.bmm(scores_gnX, features_gXP, out=weights_grad_MgnP[m])
            torch.bmm(product_MNRT[m], items_MNTD[m], out=users_grad_MNRD[m])
            turned_NTR = product_MNRT[m].transpose(1, 2)
            items_grad_MNTD[m].add_(torch.bmm(turned_NTR, shares_MNRD[m]))
        users_grad_MRCD = mass_MRN.new_zeros(members, len(example_R), codes, dimension)
        users_grad_MRCD.index_add_(2, tiles.code_N, users_grad_MNRD.transpose(1, 2).float())
        users_grad_MRCD *= share_MR1.unsqueeze(2)
        weights_grad_MRP = weights_grad_MgnP.flatten(1, 2) * share_MR1
        done.append(
            (
                users_grad_MRCD,
                weights_grad_MRP,
                near_grad_MRK,
                mass_MRC / total_MR1,
                total_MR1.log() - right_MR1,
            )  # fmt: skip
        )
    users_grad, weights_grad, near_grad, mass, loss = (
        (parts[0] if len(parts) == 1 else torch.cat(parts, 1)).index_select(1, tiles.row_B)
        for parts in zip(*done, strict=True)
    )
    items_grad = items_grad_MNTD.flatten(1, 2).index_select(1, tiles.place_S)
    return (
        users_grad,
        items_grad,
        weights_grad[:, :, :-1],
        near_grad,
        loss.sum() / size,
        mass.mean(0),
    )


def tiled_softmax(
    users_MBCD: Tensor, items_MSD: Tensor, weights_MBP: Tensor, near_MBK: Tensor, tiles: Tiles
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean of -log softmax(s)[target], each code's share of the probability, and user vectors.

    Args:
        users_MBCD: user vector of each example for each code, float32.
        items_MSD: candidates sorted by code, float32.
        weights_MBP: weights of the evidence, float32.
        near_MBK: what each neighbour adds to its logit, float32.
        tiles: the rest, by `lay_out`.

    Returns:
        The loss, of all members together; mean shares (B, C) without a gradient; the user vectors
        (M, B, V, D) of the codes that `Layout` picks, whose gradient joins that of the loss.
    """
    loss, mass_BC, picked_MBVD = _TiledSoftmax.apply(
        users_MBCD, items_MSD, weights_MBP, near_MBK, tiles
    )
    return loss, mass_BC, picked_MBVD
