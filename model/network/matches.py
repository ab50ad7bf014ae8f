"""How user vectors match items: of the right code and a shuffled one, targets and other items."""

from __future__ import annotations

import torch
from torch import Tensor

from model import launches


class Matches:
    """How user vectors (B, D) of the right and of a shuffled code match items.

    Args:
        picked_B2D: the vectors.
        positive_BD: z of the targets.
        wrong_BD: z of others.
    """

    def __init__(self, picked_B2D: Tensor, positive_BD: Tensor, wrong_BD: Tensor) -> None:
        self._positive_BD, self._wrong_BD = positive_BD, wrong_BD
        self._few = launches.few(positive_BD.device)
        if self._few:
            both_BD2 = torch.stack([positive_BD, wrong_BD], dim=2)
            self._all = (picked_B2D @ both_BD2).flatten(1).unbind(1)
        else:
            self._right_BD, self._shuffled_BD = picked_B2D.unbind(1)

    def true(self) -> Tensor:
        """Of the right code with the target: (B,)."""
        return self._all[0] if self._few else (self._right_BD * self._positive_BD).sum(1)

    def drawn(self) -> Tensor:
        """Of the right code with another item."""
        return self._all[1] if self._few else (self._right_BD * self._wrong_BD).sum(1)

    def margin(self) -> Tensor:
        """How much better the right code's vector matches the target than the shuffled one's."""
        if self._few:
            return self._all[0] - self._all[2]
        return ((self._right_BD - self._shuffled_BD) * self._positive_BD).sum(1)
