"""An embedding table that grows and is optimised row by row.

A micro-batch touches some thousand rows of a table that may hold millions, so gradients and Adam
steps (Kingma and Ba, ICLR 2015; the "lazy" variant: moments of untouched rows wait) are confined
to the rows that were gathered. Shapes: N rows, R gathered rows, D dimension.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

InitialRows = Callable[[int, int], Tensor]
"""(first row, end row) -> initial values, float32 (rows, D). Must not depend on anything else."""

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


class RowTable:
    """A float32 table of `dimension` columns whose new rows come from `initial`.

    `gather` records the rows it hands out; after the backward pass `step` updates exactly those.
    """

    def __init__(self, dimension: int, initial: InitialRows, device: torch.device) -> None:
        self.dimension = dimension
        self._initial = initial
        self._device = device
        self._size = 0
        self._weight = torch.zeros(0, dimension, device=device)
        self._mean = torch.zeros(0, dimension, device=device)
        self._square = torch.zeros(0, dimension, device=device)
        self._steps = torch.zeros(0, device=device)
        self._pending: list[tuple[Tensor, Tensor]] = []

    def __len__(self) -> int:
        return self._size

    @property
    def weight_ND(self) -> Tensor:
        """The rows in use."""
        return self._weight[: self._size]

    def grow(self, size: int) -> None:
        """Make room for `size` rows; capacity doubles, existing rows keep their values."""
        if size <= self._size:
            return
        capacity = max(1024, self._weight.shape[0])
        while capacity < size:
            capacity *= 2
        if capacity > self._weight.shape[0]:
            for name in ("_weight", "_mean", "_square", "_steps"):
                old = getattr(self, name)
                new = torch.zeros(capacity, *old.shape[1:], device=self._device)
                new[: old.shape[0]] = old
                setattr(self, name, new)
        self._weight[self._size : size] = self._initial(self._size, size).to(self._device)
        self._size = size

    def gather(self, rows_R: Tensor) -> Tensor:
        """Values (R, D) of distinct rows, as a leaf that collects their gradient."""
        leaf_RD = self._weight.index_select(0, rows_R).requires_grad_(True)
        self._pending.append((rows_R, leaf_RD))
        return leaf_RD

    def look_up(self, rows: Tensor) -> Tensor:
        """Values of any rows, without gradient."""
        return torch.nn.functional.embedding(rows, self._weight)

    @torch.no_grad()
    def step(self, learning_rate: float, scale: float = 1.0) -> None:
        """One Adam step on the rows gathered since the last call; gradients times `scale`.

        A row whose gradient is zero has learnt nothing, and stays as it is.
        """
        for rows_R, leaf_RD in self._pending:
            if leaf_RD.grad is None:
                continue
            learnt_r = torch.nonzero(leaf_RD.grad.any(dim=1)).squeeze(1)
            rows_R = rows_R.index_select(0, learnt_r)
            gradient_RD = leaf_RD.grad.index_select(0, learnt_r) * scale
            steps_R = self._steps.index_select(0, rows_R) + 1
            mean_RD = self._mean.index_select(0, rows_R).lerp_(gradient_RD, 1 - _BETA1)
            square_RD = self._square.index_select(0, rows_R)
            square_RD.mul_(_BETA2).addcmul_(gradient_RD, gradient_RD, value=1 - _BETA2)
            correction_R1 = (1 - _BETA2**steps_R).sqrt_().unsqueeze(1)
            rate_R1 = learning_rate / (1 - _BETA1**steps_R).unsqueeze(1)
            change_RD = rate_R1 * mean_RD / (square_RD.sqrt() / correction_R1 + _EPSILON)
            self._weight.index_add_(0, rows_R, change_RD, alpha=-1)
            self._mean.index_copy_(0, rows_R, mean_RD)
            self._square.index_copy_(0, rows_R, square_RD)
            self._steps.index_copy_(0, rows_R, steps_R)
        self._pending.clear()

    def gradients(self) -> list[Tensor]:
        """Gradients that wait for `step`, for clipping."""
        return [leaf.grad for _, leaf in self._pending if leaf.grad is not None]

    def state(self) -> dict[str, Tensor]:
        """Copies of values and moments."""
        names = ("weight", "mean", "square", "steps")
        return {n: getattr(self, f"_{n}")[: self._size].detach().clone() for n in names}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` gave."""
        self.grow(len(state["steps"]))
        for name, value in state.items():
            getattr(self, f"_{name}")[: self._size] = value.to(self._device)
