"""The recency prior: how much an item was taken of late, as features of each item on each day.

Items come in bursts, so a model of p(item | user) gains from knowing which items are in one. The
features are log(1 + faded count) at several half-lives; their weights are learnt by the model
that uses them. A day's features count only earlier days, also when the day is replayed later.
Shapes: E events, N items, H half-lives.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from model.peers.decay import DecayedCounts


class RecencyPrior:
    """Faded counts at several half-lives, and their values on the days that training comes to."""

    def __init__(self, items: int, half_lives: tuple[float, ...]) -> None:
        self._counts = [DecayedCounts(items, half_life) for half_life in half_lives]

    def at(self, day: int) -> Tensor:
        """Features as of the start of a day, float32 (H, N)."""
        faded = np.stack([np.log1p(counts.at(day)) for counts in self._counts])
        return torch.from_numpy(faded.astype(np.float32))

    def add(self, rows_E: np.ndarray, days_E: np.ndarray) -> None:
        """Count events in order of time."""
        for counts in self._counts:
            counts.add_all(rows_E, days_E)
