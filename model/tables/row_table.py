"""An embedding table that grows and is optimised row by row.

A micro-batch touches some thousand rows of a table that may hold millions, so gradients and steps
are confined to the rows that were gathered. The steps are those of row-wise Adagrad (Duchi et al.,
JMLR 2011; one accumulator a row, as in FBGEMM): a row that has learnt much makes small steps, so
old words and items come to rest and new ones move quickly, and the state is one number a row.
Against Adam with two moments of each value it finds more, too (docs/RESULTS.md).
Shapes: N rows, R gathered rows, D dimension.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from model import launches
from model.tables.capacity import with_room
from model.tables.touched_rows import CHECKPOINT, PUBLICATION, TouchedRows

InitialRows = Callable[[np.ndarray], Tensor]
"""Rows (n,) -> initial values, float32 (n, D). Must depend on nothing but what the rows hold."""

INITIAL_ACCUMULATOR = 1e-8
"""Below the mean square of what a click teaches: a first faint gradient makes no long step."""
CHUNK = 65_536
"""Rows whose initial values are made at once; bounds the memory of a restart."""
_STATE = ("weight", "accumulator")


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
        self._accumulator = torch.zeros(0, device=device)
        self._stepped = np.zeros(0, np.bool_)
        self._pending: list[tuple[Tensor, Tensor]] = []
        self._unmarked: list[tuple[Tensor, Tensor]] = []
        self.touched = TouchedRows()

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
            for name in _STATE:
                old = getattr(self, f"_{name}")
                new = _room(capacity, *old.shape[1:], device=self._device)
                new[: old.shape[0]] = old
                setattr(self, f"_{name}", new)
        for first in range(self._size, size, CHUNK):
            end = min(first + CHUNK, size)
            self._weight[first:end] = self._initial(np.arange(first, end)).to(self._device)
        self._stepped = with_room(self._stepped, size)
        self._size = size

    def renew(self, rows_n: np.ndarray) -> None:
        """Distinct rows begin anew, with initial values: they hold something else from now on."""
        rows = torch.from_numpy(rows_n).to(self._device)
        self._weight[rows] = self._initial(rows_n).to(self._device)
        self._accumulator[rows] = 0
        self._stepped[rows_n] = False
        self.touched.mark(rows_n)

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
        """One step on the rows gathered since the last call; gradients times `scale`.

        Where operations are to be few, the gradients are scaled already. A row whose gradient is
        zero has learnt nothing, and stays as it is. `settle` is to be called before `changes`.
        """
        for rows_R, leaf_RD in self._pending:
            if leaf_RD.grad is None:
                continue
            norm_R = torch.linalg.vector_norm(leaf_RD.grad, dim=1)
            if launches.few(self._device):
                self._step_on(rows_R, leaf_RD.grad, norm_R, learning_rate)
                continue
            learnt_r = torch.nonzero(norm_R).squeeze(1)
            rows_R = rows_R.index_select(0, learnt_r)
            square_r = (norm_R.index_select(0, learnt_r) * scale).square_() / self.dimension
            self._accumulator.index_add_(0, rows_R, square_r)
            root_r = (self._accumulator.index_select(0, rows_R) + INITIAL_ACCUMULATOR).sqrt_()
            rate_r1 = (scale * learning_rate / root_r).unsqueeze(1)
            change_rD = leaf_RD.grad.index_select(0, learnt_r).mul_(rate_r1)
            self._weight.index_add_(0, rows_R, change_rD, alpha=-1)
            self._mark(rows_R.cpu().numpy())
        self._pending.clear()

    def _step_on(
        self, rows_R: Tensor, grad_RD: Tensor, norm_R: Tensor, learning_rate: float
    ) -> None:
        """The same in few operations: rows that have learnt nothing take part, and stay."""
        share = 1 / self.dimension
        new_R = self._accumulator.index_select(0, rows_R).addcmul_(norm_R, norm_R, value=share)
        self._accumulator.index_copy_(0, rows_R, new_R)
        rate_R1 = (new_R + INITIAL_ACCUMULATOR).rsqrt_().unsqueeze(1)
        self._weight.index_add_(0, rows_R, grad_RD.mul_(rate_R1), alpha=-learning_rate)
        self._unmarked.append((rows_R, norm_R))

    def settle(self) -> None:
        """Note which rows `step` has changed; a GPU is waited for here."""
        for rows_R, norm_R in self._unmarked:
            self._mark(rows_R.cpu().numpy()[norm_R.cpu().numpy() > 0])
        self._unmarked.clear()

    def _mark(self, rows_R: np.ndarray) -> None:
        self._stepped[rows_R] = True
        self.touched.mark(rows_R)

    def gradients(self) -> list[Tensor]:
        """Gradients that wait for `step`, for clipping."""
        return [leaf.grad for _, leaf in self._pending if leaf.grad is not None]

    def changes(self, whole: bool) -> dict[str, Tensor]:
        """Values and accumulators of the rows that changed since the last call, for `apply`.

        `whole`: of all that were stepped; others have their initial values.
        """
        rows_n = self.touched.take(CHECKPOINT)
        rows = torch.from_numpy(np.flatnonzero(self._stepped) if whole else rows_n)
        here = rows.to(self._device)
        return {
            "size": torch.tensor(self._size),
            "rows": rows,
            "stepped": torch.from_numpy(self._stepped[rows.numpy()]),
            "unpublished": torch.from_numpy(self.touched.rows(PUBLICATION)),
            **{n: getattr(self, f"_{n}").index_select(0, here).cpu() for n in _STATE},
        }

    def apply(self, changes: dict[str, Tensor]) -> None:
        """Take over what `changes` gave, on top of what was given before it."""
        self.grow(int(changes["size"]))
        rows = changes["rows"]
        for name in _STATE:
            values = changes[name].to(self._device)
            getattr(self, f"_{name}").index_copy_(0, rows.to(self._device), values)
        # an earlier version knew no rows that begin anew
        self._stepped[rows.numpy()] = changes["stepped"].numpy() if "stepped" in changes else True
        self.touched.load(changes["unpublished"].numpy())


def _room(*shape: int, device: torch.device) -> Tensor:
    """Zeros; on a CPU those that nobody has written to take no memory yet."""
    if device.type == "cpu":
        return torch.from_numpy(np.zeros(shape, np.float32))
    return torch.zeros(shape, device=device)
