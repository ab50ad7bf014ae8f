from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model import launches
from model.network.quantizer import QuantizerConfig, ResidualQuantizer, rotate_gradient


@pytest.fixture(params=[False, True], ids=["least work", "few operations"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launches, "ALWAYS", request.param)


def clusters(count: int = 12, each: int = 40, dimension: int = 8, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(count, dimension, generator=generator) * 3
    noise = torch.randn(count * each, dimension, generator=generator) * 0.2
    return centres.repeat_interleave(each, 0) + noise


def started(config: QuantizerConfig, z_SD: Tensor) -> tuple[ResidualQuantizer, torch.Generator]:
    generator = torch.Generator().manual_seed(1)
    quantizer = ResidualQuantizer(z_SD.shape[1], config)
    quantizer.start(z_SD, generator)
    return quantizer, generator


def codes(quantizer: ResidualQuantizer, z_SD: Tensor) -> Tensor:
    return quantizer.assign(quantizer.standardise(z_SD))


def test_each_level_reconstructs_better_than_the_one_before() -> None:
    z_SD = clusters()
    quantizer, _ = started(QuantizerConfig(codes=16, balance=0), z_SD)
    x_SD = quantizer.standardise(z_SD)
    codes_SQ = quantizer.assign(x_SD)
    words_SQD = quantizer.codewords(codes_SQ)
    errors = [
        float((x_SD - words_SQD[:, : level + 1].sum(1)).square().mean()) for level in range(3)
    ]
    assert errors[2] < errors[1] < errors[0] < 0.2


def test_the_decoder_gives_z_again_in_its_own_scale() -> None:
    z_SD = clusters() * 5 + 100
    quantizer, _ = started(QuantizerConfig(codes=16, balance=0), z_SD)
    result = quantizer(z_SD)
    error = (quantizer.reconstruct(result.sum_SD) - z_SD).square().mean()
    assert float(error.detach() / z_SD.var(0).mean()) < 0.05


def test_a_common_offset_does_not_collapse_the_codebook() -> None:
    """Nearly equal unit vectors, as of a text encoder."""
    z_SD = torch.nn.functional.normalize(clusters() * 0.01 + 1.0, dim=1)
    quantizer, generator = started(QuantizerConfig(codes=16), z_SD)
    for _ in range(20):
        quantizer.update(z_SD, codes(quantizer, z_SD), generator)
    used = quantizer.assign(quantizer.standardise(z_SD))[:, 0].unique()
    assert len(used) >= 12


def test_a_dead_code_is_revived_with_its_averages_and_stays_alive() -> None:
    z_SD = clusters()
    quantizer, generator = started(QuantizerConfig(codes=16, balance=0), z_SD)
    far = torch.full((8,), 1e3)
    quantizer.codebooks_QCD[0, 5] = far  # nothing is near it
    quantizer.sums_QCD[0, 5] = far * 1e-3
    quantizer.load_QC[0, 5] = 1e-3
    assert quantizer.update(z_SD, codes(quantizer, z_SD), generator) >= 1
    word, load = quantizer.codebooks_QCD[0, 5].clone(), float(quantizer.load_QC[0, 5])
    assert word.norm() < 100
    assert torch.allclose(quantizer.sums_QCD[0, 5] / load, word, atol=1e-5)
    for _ in range(30):
        quantizer.update(z_SD, codes(quantizer, z_SD), generator)
    assert quantizer.codebooks_QCD[0, 5].norm() < 100
    assert bool((quantizer.assign(quantizer.standardise(z_SD))[:, 0] == 5).any())


def test_without_the_reset_a_revived_code_would_be_overwritten_at_once() -> None:
    """The failure that the reset prevents (vector-quantize-pytorch #205)."""
    z_SD = clusters()
    quantizer, generator = started(QuantizerConfig(codes=16, balance=0, dead_share=0.0), z_SD)
    quantizer.load_QC[0, 5], quantizer.sums_QCD[0, 5] = 1.0, torch.full((8,), 1e3)
    quantizer.codebooks_QCD[0, 5] = quantizer.standardise(z_SD)[0]  # moved, averages kept
    quantizer.update(z_SD, codes(quantizer, z_SD), generator)
    assert quantizer.codebooks_QCD[0, 5].norm() > 10


def test_codes_keep_their_meaning_while_items_drift() -> None:
    z_SD = clusters()
    quantizer, generator = started(QuantizerConfig(codes=12, balance=0), z_SD)
    before = quantizer.assign(quantizer.standardise(z_SD))[:, 0]
    direction = torch.randn(8, generator=generator)
    for step in range(100):
        now_SD = z_SD + 0.02 * step * direction
        quantizer.update(now_SD, codes(quantizer, now_SD), generator)
    moved = z_SD + 0.02 * 99 * direction
    after = quantizer.assign(quantizer.standardise(moved))[:, 0]
    assert float((before == after).double().mean()) > 0.95


def test_balance_lets_a_starving_code_attract_items() -> None:
    quantizer = ResidualQuantizer(
        1, QuantizerConfig(codes=2, levels=1, balance=1.0, balance_floor=0.3)
    )
    quantizer.codebooks_QCD[0] = torch.tensor([[0.0], [1.0]])
    quantizer.load_QC[0] = torch.tensor([1.9, 0.1])
    assert quantizer.balance_C().tolist() == pytest.approx([1.0, 0.3])
    nearer_to_the_full_code = torch.tensor([[0.4]])
    assert quantizer.assign(nearer_to_the_full_code).item() == 1


@pytest.mark.parametrize("gradient", ["rotation", "straight_through"])
def test_gradients_pass_through_the_quantizer(gradient: str) -> None:
    z_SD = clusters().requires_grad_(True)
    quantizer, _ = started(QuantizerConfig(codes=16, gradient=gradient), z_SD.detach())
    result = quantizer(z_SD)
    words = quantizer.codewords(result.codes_SQ).sum(1)
    assert torch.allclose(result.sum_SD, words, atol=1e-4)
    quantizer.reconstruct(result.sum_SD).square().sum().backward()
    assert z_SD.grad is not None and bool((z_SD.grad.abs().sum(1) > 0).all())


def test_the_rotation_trick_keeps_the_angle_between_gradient_and_codeword() -> None:
    """arXiv 2410.06424: the gradient turns as the input turns into the codeword."""
    torch.manual_seed(0)
    x = torch.randn(4, 6, requires_grad=True)
    q = torch.randn(4, 6)
    upstream = torch.randn(4, 6)
    rotate_gradient(x, q).backward(upstream)
    assert x.grad is not None
    before = torch.cosine_similarity(upstream, q)
    after = torch.cosine_similarity(x.grad, x.detach())
    assert torch.allclose(before, after, atol=1e-5)


def test_an_unknown_gradient_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="quantizer.gradient is 'magic'"):
        ResidualQuantizer(4, QuantizerConfig(gradient="magic"))
