"""Gradients of a step: their norm, how far they may reach, and whether all are numbers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from model import launches
from model.learning.errors import NotFiniteError
from model.learning.item_tables import ItemTables
from model.network.sparc import Outcome, Sparc

LARGEST_GRADIENT = 5.0
"""Norm that a gradient is scaled down to: no micro-batch of odd events moves the model further."""


class Gradients:
    """Those of the dense weights and of the tables' rows, after a step backward.

    Args:
        sparc: the dense weights.
        tables: the rows that a step learnt.
        device: where both are.
    """

    def __init__(self, sparc: Sparc, tables: ItemTables, device: torch.device) -> None:
        self._sparc = sparc
        self._tables = tables
        self._device = device

    def all(self) -> list[Tensor]:
        """Of the dense weights, then of the rows."""
        return self._dense() + self._of_rows()

    def _dense(self) -> list[Tensor]:
        return [p.grad for p in self._sparc.parameters() if p.grad is not None]

    def _of_rows(self) -> list[Tensor]:
        return [x for table in self._tables.learnt_rows for x in table.gradients()]

    def norm(self) -> Tensor:
        """Of all together: ()."""
        return torch.stack(torch._foreach_norm(self.all())).norm()

    def clip(self, norm: Tensor) -> float:
        """Scale the dense gradients to the largest norm; returns the scale, for the tables.

        Where operations are to be few, those of the tables are scaled as well.
        """
        if launches.few(self._device):
            scale_0 = (LARGEST_GRADIENT / norm).clamp_(max=1.0)
            torch._foreach_mul_(self.all(), scale_0)
            return 1.0
        scale = min(1.0, LARGEST_GRADIENT / max(float(norm), 1e-12))
        if scale < 1:
            torch._foreach_mul_(self._dense(), scale)
        return scale

    def norms_of_weights(self) -> Tensor:
        """Of dense weights and codebooks, which a step may have broken.

        Rows of the tables need no look: their steps are bounded as the gradient is.
        """
        whole = [*self._sparc.parameters(), *self._sparc.buffers()]
        floating = [t.detach() for t in whole if t.is_floating_point()]
        return torch.stack(torch._foreach_norm(floating))


def check_losses(outcome: Outcome, losses: Tensor) -> None:
    """Refuse a step whose loss is not finite.

    Raises:
        NotFiniteError: with all losses.
    """
    values = dict(zip(outcome.losses, losses.tolist(), strict=True))
    if not math.isfinite(values["loss"]):
        told = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        raise NotFiniteError(f"the loss is not finite ({told})")


def check_norm(norm: Tensor) -> None:
    """Refuse a step whose gradient is not finite.

    Raises:
        NotFiniteError: with its norm.
    """
    if not math.isfinite(float(norm)):
        raise NotFiniteError(f"the gradient is not finite (its norm is {float(norm)})")
