"""Both ways of computing the softmax over the candidates, against a plain one in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from model.network.candidate_layout import Layout
from model.network.candidate_softmax import candidate_softmax
from model.network.tiled_softmax import lay_out, tiled_softmax

DIMENSION, FEATURES, MEMBERS, PICKED = 6, 2, 2, 3
Inputs = list[Tensor]
Results = tuple[Tensor, Tensor, Tensor]
"""Loss, masses (B, C) and the user vectors (M, B, X, D) that are handed out."""
Softmax = Callable[[Inputs, Layout], Results]


class Shape(NamedTuple):
    """Candidates of each code, examples of each clock, neighbours, excluded."""

    sizes: list[int]
    clocks: list[int]
    near: int = 3
    excluded: int = 2


SHAPES = {
    "codes of all sizes, one empty": Shape([2, 3, 0, 4], [2, 3]),
    "one candidate": Shape([0, 0, 1], [1]),
    "one code holds all": Shape([0, 40, 0, 0, 0], [4, 4, 1]),
    "one code, one clock": Shape([30], [7]),
    "first and last codes empty": Shape([0, 17, 1, 0, 33, 16, 0], [5, 1, 9]),
    "single candidates of many codes": Shape([1] * 50, [3, 2], near=6, excluded=5),
    "more than a tile": Shape([100, 5, 260], [30, 8], near=7, excluded=4),
}


def made(shape: Shape, seed: int = 0) -> tuple[Inputs, Layout]:
    """Random inputs, with padding among neighbours and excluded, which may name one twice."""
    random = torch.Generator().manual_seed(seed)
    count, size, codes = sum(shape.sizes), sum(shape.clocks), len(shape.sizes)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=random)

    def positions(*sizes: int) -> Tensor:
        return torch.randint(-1, count, sizes, generator=random)

    target_B = torch.randint(count, (size,), generator=random)
    excluded_BL = positions(size, shape.excluded)
    excluded_BL[excluded_BL == target_B.unsqueeze(1)] = -1
    ends = torch.tensor(shape.clocks).cumsum(0).tolist()
    layout = Layout(
        sizes_C=torch.tensor(shape.sizes),
        clocks=list(zip([0, *ends], ends, strict=False)),
        features_GSP=normal(len(shape.clocks), count, FEATURES),
        log_q_S=normal(count),
        near_BK=positions(size, shape.near),
        excluded_BL=excluded_BL,
        target_B=target_B,
        parts=list(torch.randperm(size, generator=random).chunk(2)),
        picked_BX=torch.randint(codes, (size, PICKED), generator=random),
    )
    inputs = [
        normal(MEMBERS, size, codes, DIMENSION),
        normal(MEMBERS, count, DIMENSION),
        normal(MEMBERS, size, FEATURES),
        normal(MEMBERS, size, shape.near),
    ]
    return inputs, layout


def by_code(inputs: Inputs, layout: Layout) -> Results:
    """The way of a CPU."""
    results = [
        candidate_softmax([users_BCD[part] for part in layout.parts], *rest, layout)
        for users_BCD, *rest in zip(*inputs, strict=True)
    ]
    losses, masses, picked = zip(*results, strict=True)
    return torch.stack(losses).sum(), torch.stack(masses).mean(0), torch.stack(picked)


def by_tiles(inputs: Inputs, layout: Layout) -> Results:
    """The way of a GPU."""
    return tiled_softmax(*inputs, lay_out(layout, DIMENSION))


def plain(inputs: Inputs, layout: Layout) -> Results:
    """What both are to give, with logits of all, in the precision of the inputs."""
    users_MBCD, items_MSD, weights_MBP, near_MBK = inputs
    size = len(layout.target_B)
    code_S = torch.repeat_interleave(torch.arange(len(layout.sizes_C)), layout.sizes_C)
    clock_B = torch.cat([torch.full((e - a,), g) for g, (a, e) in enumerate(layout.clocks)])
    logits_MBS = torch.einsum("mbsd,msd->mbs", users_MBCD[:, :, code_S], items_MSD)
    features_BSP = layout.features_GSP.to(logits_MBS)[clock_B]
    logits_MBS = logits_MBS + torch.einsum("mbp,bsp->mbs", weights_MBP, features_BSP)
    logits_MBS = logits_MBS - layout.log_q_S
    near_BKS = torch.nn.functional.one_hot(layout.near_BK + 1, len(code_S) + 1)[:, :, 1:]
    logits_MBS = logits_MBS + torch.einsum("mbk,bks->mbs", near_MBK, near_BKS.to(logits_MBS))
    out_BS = torch.nn.functional.one_hot(layout.excluded_BL + 1, len(code_S) + 1).sum(1)[:, 1:] > 0
    log_p_MBS = logits_MBS.masked_fill(out_BS, float("-inf")).log_softmax(2)
    loss = -log_p_MBS[:, torch.arange(size), layout.target_B].sum() / size
    mass_BC = torch.zeros(size, len(layout.sizes_C), dtype=logits_MBS.dtype)
    mass_BC.index_add_(1, code_S, log_p_MBS.detach().exp().mean(0))
    return loss, mass_BC, users_MBCD[:, torch.arange(size).unsqueeze(1), layout.picked_BX]


def relative(one: Tensor, other: Tensor) -> float:
    """Length of the difference over that of `other`; gradients of nothing have none."""
    one = one.detach()
    return float((one.double() - other).norm() / other.norm().clamp(min=1e-3))


def errors(softmax: Softmax, inputs: Inputs, layout: Layout) -> list[float]:
    """Relative errors of loss, masses, vectors and every gradient, also of the vectors."""
    own = [x.clone().requires_grad_(True) for x in inputs]
    exact = [x.double().requires_grad_(True) for x in inputs]
    results, expected = softmax(own, layout), plain(exact, layout)
    told_MBXD = torch.randn(results[2].shape, generator=torch.Generator().manual_seed(9))
    for loss, _, picked_MBXD in (results, expected):
        (3 * loss + 0.1 * (told_MBXD * picked_MBXD).sum()).backward()
    gradients = [relative(a.grad, b.grad) for a, b in zip(own, exact, strict=True)]
    return [*map(relative, results, (x.detach() for x in expected)), *gradients]


@pytest.mark.parametrize("softmax", [by_code, by_tiles])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_loss_gradients_and_masses_are_those_of_the_plain_softmax(
    shape: Shape, softmax: Softmax
) -> None:
    for seed in range(3):
        assert max(errors(softmax, *made(shape, seed))) < 1e-5


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_with_products_of_16_bits_they_are_near_it(shape: Shape) -> None:
    for seed in range(3):
        with torch.autocast("cpu", torch.bfloat16):
            assert max(errors(by_tiles, *made(shape, seed))) < 2e-2


@pytest.mark.parametrize("together", [2, 96])
def test_blocks_of_a_cpu_change_nothing(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.network.candidate_softmax.TOGETHER", together)
    assert max(errors(by_code, *made(SHAPES["first and last codes empty"]))) < 1e-5


@pytest.mark.parametrize("bound", [1, 20_000])
def test_what_bounds_the_memory_of_a_gpu_changes_nothing(
    bound: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.network.tiled_softmax.BLOCK_BYTES", bound)
    assert max(errors(by_tiles, *made(SHAPES["first and last codes empty"]))) < 1e-5


@pytest.mark.parametrize("softmax", [by_code, by_tiles])
def test_the_masses_teach_and_are_not_taught(softmax: Softmax) -> None:
    inputs, layout = made(SHAPES["codes of all sizes, one empty"])
    _, mass_BC, _ = softmax([x.requires_grad_(True) for x in inputs], layout)
    assert not mass_BC.requires_grad
    assert torch.allclose(mass_BC.sum(1), torch.ones(len(mass_BC)))
