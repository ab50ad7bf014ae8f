"""Three-level residual vector quantizer: the discrete interest space.

An item's z is standardised, its nearest codeword at level 1 subtracted, the rest quantized at
level 2, and so on (RQ-VAE: Lee et al., CVPR 2022; TIGER, NeurIPS 2023). A small decoder maps the
sum of codewords back to z. Decisions where the paper leaves room:

- *Codebook*: exponential moving averages, no gradient (van den Oord et al., 2017, appendix A.1).
  A moving average moves a code slowly and never swaps two, so a code keeps its meaning.
- *Gradient*: the rotation trick (Fifty et al., ICLR 2025) or straight-through, by `gradient`. It
  carries the item-item contrastive and the reconstruction loss back to the item tower.
- *No pull on items towards their centroid* beyond a small commitment: it would freeze the
  assignments of a stream (streaming VQ, arXiv 2501.08695, section 3.2).
- *Balance*: first-level distances are multiplied by min(c_k / mean(c) * s, 1), bounded below, so
  that a starving code attracts items (the same paper); every item counts once per micro-batch,
  however popular, so rare items shape the codebook too.
- *Dead codes* move onto badly served items, with their averages reset: a revived code that keeps
  its old sums is overwritten at once (vector-quantize-pytorch #205).
- *Standardised input*: one affine map to mean 0 and deviation 1 in each dimension, else a common
  offset can collapse the codebook. Its statistics are moving averages too.

Shapes: S items at hand, Q levels, C codes of a level, D dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from model import launches
from model.ranks import ALONE, Ranks

DECAY = 0.95
"""Memory of the moving averages, about twenty steps; shorter in the first ones, when items still
move fast."""

LONGEST = 200
"""Updates after which the memory does not grow."""


@dataclass(frozen=True)
class QuantizerConfig:
    """Codebook settings.

    Attributes:
        codes: codes of each level (the paper names 256 and 64).
        levels: residual levels.
        balance: s of the balance factor; 0 switches it off.
        balance_floor: lower bound of the factor.
        dead_share: a code whose average load is below this share of the mean is revived.
        gradient: "rotation" or "straight_through".
    """

    codes: int = 64
    levels: int = 3
    balance: float = 2.0
    balance_floor: float = 0.7
    dead_share: float = 0.1
    gradient: str = "rotation"


MOST_CODES = 32_767
"""Published codes are numbers of 16 bits."""


class Quantized(NamedTuple):
    """Result for S items, in quantizer space (standardised).

    Attributes:
        input_SD: standardised z, with its gradient.
        codes_SQ: int64.
        first_SD: first-level codeword, no gradient.
        sum_SD: sum of the codewords; its gradient reaches `input_SD`.
    """

    input_SD: Tensor
    codes_SQ: Tensor
    first_SD: Tensor
    sum_SD: Tensor


class _Rotated(torch.autograd.Function):
    """The same as `rotate_gradient`, whose value is `output_SD` but for rounding."""

    @staticmethod
    def forward(ctx: Any, input_SD: Tensor, output_SD: Tensor) -> Tensor:
        ctx.save_for_backward(input_SD, output_SD)
        return output_SD.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        both_2SD = torch.stack(ctx.saved_tensors)
        norm_2S1 = torch.linalg.vector_norm(both_2SD, dim=2, keepdim=True).clamp_(min=1e-6)
        both_2SD = both_2SD.div_(norm_2S1)
        r_SD = nn.functional.normalize(both_2SD.sum(0), dim=1, eps=1e-6)
        turned_SD = gradients[0] * (norm_2S1[1] / norm_2S1[0])
        along_r_S1 = (turned_SD * r_SD).sum(1, keepdim=True)
        along_q_S1 = (turned_SD * both_2SD[1]).sum(1, keepdim=True)
        turned_SD.addcmul_(r_SD, along_r_S1, value=-2).addcmul_(both_2SD[0], along_q_S1, value=2)
        return turned_SD, None


def rotate_gradient(input_SD: Tensor, output_SD: Tensor) -> Tensor:
    """`output_SD` with the rotation trick's gradient to `input_SD` (arXiv 2410.06424, eq. 4)."""
    if launches.few(input_SD.device):
        rotated_SD: Tensor = _Rotated.apply(input_SD, output_SD)
        return rotated_SD
    input_norm = input_SD.norm(dim=1, keepdim=True).clamp(min=1e-6)
    output_norm = output_SD.norm(dim=1, keepdim=True).clamp(min=1e-6)
    e = (input_SD / input_norm).detach()
    q = (output_SD / output_norm).detach()
    r = nn.functional.normalize(e + q, dim=1, eps=1e-6)
    turned = (
        input_SD
        - 2 * (input_SD * r).sum(1, keepdim=True) * r
        + 2 * (input_SD * e).sum(1, keepdim=True) * q
    )
    return turned * (output_norm / input_norm).detach()


class ResidualQuantizer(nn.Module):
    """Codebooks as buffers (moved by `update`), decoder as parameters."""

    mean_D: Tensor
    variance_D: Tensor
    codebooks_QCD: Tensor
    load_QC: Tensor
    sums_QCD: Tensor
    squared_radius_C: Tensor
    ready: Tensor
    updates: Tensor

    def __init__(self, dimension: int, config: QuantizerConfig) -> None:
        super().__init__()
        if config.gradient not in ("rotation", "straight_through"):
            raise ValueError(
                f"quantizer.gradient is {config.gradient!r}; use 'rotation' or 'straight_through'"
            )
        if not 1 <= config.codes <= MOST_CODES:
            raise ValueError(
                f"learner.model.quantizer.codes is {config.codes}, not within 1..{MOST_CODES}"
            )
        self.config = config
        q, c, d = config.levels, config.codes, dimension
        self.register_buffer("mean_D", torch.zeros(d))
        self.register_buffer("variance_D", torch.ones(d))
        self.register_buffer("codebooks_QCD", torch.zeros(q, c, d))
        self.register_buffer("load_QC", torch.ones(q, c))
        self.register_buffer("sums_QCD", torch.zeros(q, c, d))
        self.register_buffer("squared_radius_C", torch.ones(c))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))
        self.decoder = nn.Linear(d, d)
        nn.init.eye_(self.decoder.weight)
        nn.init.zeros_(self.decoder.bias)

    @cached_property
    def _new_U(self) -> Tensor:
        """By how much a step moves the averages, by the number of those before it."""
        shares = [1 - min(DECAY, (1 + done) / (10 + done)) for done in range(LONGEST)]
        return torch.tensor(shares, device=self.mean_D.device)

    @cached_property
    def _first_Q(self) -> Tensor:
        """The number of each level's first code, where those of all levels are numbered."""
        level_Q = torch.arange(self.config.levels, device=self.mean_D.device)
        return self.config.codes * level_Q

    def standardise(self, z_SD: Tensor) -> Tensor:
        """Z in quantizer space."""
        scale_D = torch.rsqrt(self.variance_D + 1e-6)
        if launches.few(z_SD.device):
            return (z_SD - self.mean_D) * scale_D
        return torch.addcmul(-self.mean_D * scale_D, z_SD, scale_D)

    def centroids(self) -> Tensor:
        """First-level codewords in the space of z: (C, D)."""
        return self.codebooks_QCD[0] * torch.sqrt(self.variance_D + 1e-6) + self.mean_D

    def balance_C(self) -> Tensor:
        """Factor on first-level squared distances, in [balance_floor, 1]."""
        if self.config.balance <= 0:
            return torch.ones_like(self.load_QC[0])
        share_C = self.load_QC[0] / self.load_QC[0].mean().clamp(min=1e-12)
        return (share_C * self.config.balance).clamp(self.config.balance_floor, 1.0)

    @torch.no_grad()
    def assign(self, input_SD: Tensor) -> Tensor:
        """Codes (S, Q) int64 of standardised inputs; ties go to the smaller code."""
        residual_SD = input_SD.detach().float()
        codes = []
        for level, codebook_CD in enumerate(self.codebooks_QCD):
            if level == 0:
                distance_SC = _squared_distances(residual_SD, codebook_CD).mul_(self.balance_C())
            else:  # the same order, without what all codes of an item have in common
                norms_C = codebook_CD.square().sum(1)
                distance_SC = torch.addmm(norms_C, residual_SD, codebook_CD.T, alpha=-2)
            codes.append(distance_SC.min(1).indices)  # faster than argmin
            if level + 1 < self.config.levels:
                residual_SD = residual_SD - codebook_CD.index_select(0, codes[-1])
        return torch.stack(codes, dim=1)

    def codewords(self, codes_SQ: Tensor) -> Tensor:
        """Codewords of each level: (S, Q, D)."""
        if launches.few(codes_SQ.device):
            return self.codebooks_QCD.flatten(0, 1)[codes_SQ + self._first_Q]
        return torch.stack(
            [self.codebooks_QCD[level].index_select(0, codes_SQ[:, level])
             for level in range(self.config.levels)], dim=1,
        )  # fmt: skip

    def forward(self, z_SD: Tensor, codes_SQ: Tensor | None = None) -> Quantized:
        """Quantize, to given codes if there are any; pure, the codebook moves only in `update`."""
        input_SD = self.standardise(z_SD)
        codes_SQ = self.assign(input_SD) if codes_SQ is None else codes_SQ
        words_SQD = self.codewords(codes_SQ)
        sum_SD = words_SQD.sum(1)
        if self.config.gradient == "rotation":
            sum_SD = rotate_gradient(input_SD, sum_SD)
        else:
            sum_SD = input_SD + (sum_SD - input_SD).detach()
        return Quantized(input_SD, codes_SQ, words_SQD[:, 0], sum_SD)

    def reconstruct(self, sum_SD: Tensor) -> Tensor:
        """Z again, from the sum of codewords: (S, D)."""
        scale_D = torch.sqrt(self.variance_D + 1e-6)
        if launches.few(sum_SD.device):
            return torch.addcmul(self.mean_D, self.decoder(sum_SD), scale_D)
        return self.decoder(sum_SD) * scale_D + self.mean_D

    @torch.no_grad()
    def health(self, z_ND: Tensor) -> dict[str, float]:
        """How well the codebooks serve these items.

        `codes_in_use` is the share of first-level codes that hold one, `perplexity` that of all
        codes, over their number, `largest_to_mean` compares the fullest code with the mean,
        `cosine` is the mean of items to their centroid, `relative_error` the share of variance
        that the reconstruction misses.
        """
        result = self(z_ND)
        load_C = torch.bincount(result.codes_SQ[:, 0], minlength=self.config.codes).double()
        share_C = load_C / load_C.sum()
        entropy = -(share_C * share_C.clamp(min=1e-12).log()).sum()
        error = (self.reconstruct(result.sum_SD) - z_ND).square().mean()
        cosine = torch.cosine_similarity(result.input_SD, result.first_SD).mean()
        return {
            "codes_in_use": float((load_C > 0).double().mean()),
            "perplexity": float(entropy.exp() / self.config.codes),
            "largest_to_mean": float(load_C.max() / load_C.mean()),
            "cosine": float(cosine),
            "relative_error": float(error / z_ND.var(0).mean().clamp(min=1e-12)),
        }

    @torch.no_grad()
    def start(
        self, z_SD: Tensor, generator: torch.Generator, rounds: int = 10, ranks: Ranks = ALONE
    ) -> None:
        """First codebooks: k-means of the given items, level by level.

        All `ranks` give the same items and draw the same.
        """
        self.mean_D.copy_(z_SD.mean(0))
        self.variance_D.copy_(z_SD.var(0, unbiased=False))
        residual_SD = self.standardise(z_SD).float()
        count = self.config.codes
        for level in range(self.config.levels):
            codebook_CD = self.codebooks_QCD[level]
            codebook_CD.copy_(_spread(residual_SD, count, generator))
            for _ in range(rounds):
                code_S = _squared_distances(residual_SD, codebook_CD).argmin(1)
                load_C, sums_CD, _ = _totals(code_S, residual_SD, count, ranks)
                filled_C = load_C > 0
                codebook_CD[filled_C] = (sums_CD / load_C.clamp(min=1).unsqueeze(1))[filled_C]
            code_S = _squared_distances(residual_SD, codebook_CD).argmin(1)
            self.load_QC[level] = torch.bincount(code_S, minlength=count).float().clamp(min=0.5)
            self.sums_QCD[level] = codebook_CD * self.load_QC[level].unsqueeze(1)
            residual_SD = residual_SD - codebook_CD.index_select(0, code_S)
            if level == 0:
                self.squared_radius_C.fill_(float(residual_SD.square().sum(1).mean()))
        self.ready.fill_(True)

    @torch.no_grad()
    def update(
        self,
        z_SD: Tensor,
        codes_SQ: Tensor,
        generator: torch.Generator,
        input_SD: Tensor | None = None,
        ranks: Ranks = ALONE,
    ) -> int | Tensor:
        """Move statistics and codebooks towards items of these codes.

        All ranks give the same items, and the leader's sums count; so their codebooks stay the same
        also where a device adds in any order, and are those of one rank.

        Args:
            z_SD: of the items.
            codes_SQ: theirs.
            generator: draws what revived codes move onto; on the CPU, or where operations are to
                be few, on the device.
            input_SD: z standardised, where it is at hand.
            ranks: who learns together.

        Returns:
            How many codes were revived; where operations are to be few, as a tensor.
        """
        z_SD = z_SD.detach().float()
        input_SD = self.standardise(z_SD) if input_SD is None else input_SD
        if launches.few(z_SD.device):
            return self._update_together(z_SD, input_SD, codes_SQ, generator, ranks)
        done = int(self.updates)
        decay = min(DECAY, (1 + done) / (10 + done))
        residual_SD = input_SD
        self._follow(z_SD, 1 - decay)
        revived = 0
        for level in range(self.config.levels):
            code_S = codes_SQ[:, level]
            rest_SD = residual_SD - self.codebooks_QCD[level].index_select(0, code_S)
            error_S = torch.linalg.vector_norm(rest_SD, dim=1).square_()
            load_C, sums_CD, error_C = _totals(
                code_S, residual_SD, self.config.codes, ranks, None if level else error_S
            )
            self.load_QC[level].lerp_(load_C, 1 - decay)
            self.sums_QCD[level].lerp_(sums_CD, 1 - decay)
            if level == 0:
                self._widen(error_C, load_C, 1 - decay)
            alive_C = self.load_QC[level] > 1e-6
            mean_CD = self.sums_QCD[level] / self.load_QC[level].clamp(min=1e-6).unsqueeze(1)
            self.codebooks_QCD[level][alive_C] = mean_CD[alive_C]
            revived += self._revive(level, residual_SD, error_S, generator)
            residual_SD = rest_SD
        return revived

    def _follow(self, z_SD: Tensor, new: float) -> None:
        """Move mean and variance by a share of what is `new`."""
        self.updates += 1
        mean_D = z_SD.mean(0)
        variance_D = z_SD.square().mean(0) - mean_D.square()
        self.mean_D.lerp_(mean_D, new)
        self.variance_D.lerp_(variance_D.clamp(min=0), new)

    def _widen(self, error_C: Tensor, load_C: Tensor, new: float | Tensor) -> None:
        """Move the radii of the codes that have items."""
        mean_C = error_C / load_C.clamp(min=1)
        moved_C = torch.lerp(self.squared_radius_C, mean_C, new)
        _replace(self.squared_radius_C, load_C > 0, moved_C)

    def _update_together(
        self,
        z_SD: Tensor,
        input_SD: Tensor,
        codes_SQ: Tensor,
        generator: torch.Generator,
        ranks: Ranks,
    ) -> Tensor:
        """The same of all levels at once, without looking at a number."""
        new = self._new_U.index_select(0, self.updates.clamp(max=LONGEST - 1).view(1))[0]
        levels, codes, dimension = self.codebooks_QCD.shape
        self.updates += 1
        variance_D, mean_D = torch.var_mean(z_SD, 0, unbiased=False)
        self.mean_D.lerp_(mean_D, new)
        self.variance_D.lerp_(variance_D, new)
        words_SQD = self.codewords(codes_SQ)
        rests_SQD = torch.sub(input_SD.unsqueeze(1), words_SQD.cumsum(1))
        residuals_SQD = rests_SQD + words_SQD
        errors_SQ = torch.linalg.vector_norm(rests_SQD, dim=2).square_()
        row_X = (codes_SQ + self._first_Q).flatten()
        # sums, loads and errors in one: one column for each dimension, and two more
        counted_SQ2 = nn.functional.pad(errors_SQ.unsqueeze(2), (1, 0), value=1.0)
        totals_SQE = torch.cat([residuals_SQD, counted_SQ2], dim=2)
        totals_QCE = z_SD.new_zeros(levels * codes, dimension + 2)
        totals_QCE.index_add_(0, row_X, totals_SQE.flatten(0, 1))
        ranks.agree([totals_QCE])
        totals_QCE = totals_QCE.unflatten(0, (levels, codes))
        load_QC = totals_QCE[..., -2]
        self.load_QC.lerp_(load_QC, new)
        self.sums_QCD.lerp_(totals_QCE[..., :-2], new)
        self._widen(totals_QCE[0, :, -1], load_QC[0], new)
        load_QC1 = self.load_QC.unsqueeze(2)
        mean_QCD = self.sums_QCD / load_QC1.clamp(min=1e-6)
        _replace(self.codebooks_QCD, load_QC1 > 1e-6, mean_QCD)
        return self._revive_together(residuals_SQD, errors_SQ, generator)

    def _revive(
        self, level: int, residual_SD: Tensor, error_S: Tensor, generator: torch.Generator
    ) -> int:
        """Put starved codes onto items drawn by squared error (k-means++), averages included."""
        load_C = self.load_QC[level]
        mean = load_C.mean()
        dead = torch.nonzero(load_C < self.config.dead_share * mean).squeeze(1)
        dead = dead[: int((error_S > 0).sum())]
        if len(dead) == 0:
            return 0
        picks = torch.multinomial(error_S.cpu().double(), len(dead), generator=generator)
        words = residual_SD.index_select(0, picks.to(residual_SD.device))
        self.codebooks_QCD[level][dead] = words
        load_C[dead] = 0.5 * mean
        self.sums_QCD[level][dead] = words * (0.5 * mean)
        if level == 0:
            self.squared_radius_C[dead] = self.squared_radius_C.mean()
        return len(dead)

    def _revive_together(
        self, residuals_SQD: Tensor, errors_SQ: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The same of all levels at once; returns how many.

        Items are drawn for as many codes as there may be, one after the other without replacement
        (the exponential race that `torch.multinomial` runs).
        """
        mean_Q1 = self.load_QC.mean(1, keepdim=True)
        dead_QC = self.load_QC < self.config.dead_share * mean_Q1
        waits_SQ = torch.empty_like(errors_SQ).exponential_(generator=generator)
        most = min(self.config.codes, len(errors_SQ))
        pick_cQ = torch.topk(errors_SQ / waits_SQ, most, dim=0).indices
        rank_QC = dead_QC.cumsum(1) - 1
        dead_QC &= rank_QC < (errors_SQ > 0).sum(0).unsqueeze(1)
        pick_CQ = pick_cQ.gather(0, rank_QC.T.clamp(0, most - 1))
        words_CQD = residuals_SQD.gather(
            0, pick_CQ.unsqueeze(2).expand(-1, -1, self.mean_D.numel())
        )
        dead_QC1, half_Q1 = dead_QC.unsqueeze(2), 0.5 * mean_Q1
        words_QCD = words_CQD.transpose(0, 1)
        _replace(self.codebooks_QCD, dead_QC1, words_QCD)
        _replace(self.sums_QCD, dead_QC1, words_QCD * half_Q1.unsqueeze(2))
        _replace(self.load_QC, dead_QC, half_Q1)
        _replace(self.squared_radius_C, dead_QC[0], self.squared_radius_C.mean())
        return dead_QC.sum()


def _replace(values: Tensor, where: Tensor, by: Tensor) -> None:
    """Take over what is `by`, where it is to be."""
    torch.where(where, by, values, out=values)


def _squared_distances(x_SD: Tensor, codebook_CD: Tensor) -> Tensor:
    """(S, C); clamped, so that rounding cannot make one negative and the balance misread it."""
    norms = x_SD.square().sum(1, keepdim=True) + codebook_CD.square().sum(1)
    return torch.addmm(norms, x_SD, codebook_CD.T, alpha=-2).clamp_(min=0)


def _totals(
    code_S: Tensor, x_SD: Tensor, codes: int, ranks: Ranks, error_S: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Number, sum and sum of errors of each code's items; the same on all ranks."""
    load_C = torch.bincount(code_S, minlength=codes).float()
    sums_CD = x_SD.new_zeros(codes, x_SD.shape[1]).index_add_(0, code_S, x_SD)
    error_C = torch.zeros_like(load_C)
    if error_S is not None:
        error_C.index_add_(0, code_S, error_S)
    ranks.agree([load_C, sums_CD, error_C])
    return load_C, sums_CD, error_C


def _spread(x_SD: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """k-means++ seeds (Arthur and Vassilvitskii, SODA 2007); repeats where items are few."""
    first = int(torch.randint(len(x_SD), (1,), generator=generator))
    seeds = [x_SD[first]]
    nearest_S = (x_SD - seeds[0]).square().sum(1)
    for _ in range(count - 1):
        weight_S = nearest_S.cpu().double() + 1e-9
        pick = int(torch.multinomial(weight_S, 1, generator=generator))
        seeds.append(x_SD[pick])
        nearest_S = torch.minimum(nearest_S, (x_SD - x_SD[pick]).square().sum(1))
    return torch.stack(seeds)
