"""Switches for controls: one part of the learner taken away, by the shortest intervention there is.

They reach into the learner on purpose: a setting for each would be a flag that nobody else sets.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.learning.learner import Learner
from model.network.quantizer import ResidualQuantizer
from model.network.user_tower import EncodedHistory, UserTower
from model.retrieval.retrieval_model import RetrievalModel


class _Frozen(ResidualQuantizer):
    """Codebooks, standardisation and loads stay; items still move and are assigned anew."""

    def update(self, z_SD: Tensor, codes_SQ: Tensor, generator: torch.Generator) -> int:
        """Learn nothing; no code is revived."""
        return 0


class _OneVector(UserTower):
    """The attention asks every code's question with the same learned query."""

    def forward(self, encoded: EncodedHistory, query_KD: Tensor) -> Tensor:
        """The same vector for every code; the projection of zero is the query."""
        return super().forward(encoded, torch.zeros_like(query_KD))


def freeze_codebook(learner: Learner) -> None:
    """From now on the codebooks of all levels stay where they are; the rest goes on learning.

    Items keep moving in the space and change code when they come nearer to another codeword.
    """
    learner._sparc.quantizer.__class__ = _Frozen


def one_user_vector(of: Learner | RetrievalModel) -> None:
    """One user vector for all codes, in training or in serving; both need it.

    The interest head still reads the history for each code, and popularity and neighbours speak
    for items as before: only the tower's part of the user vector no longer depends on the code.
    The loss that ranks the right code's vector above a shuffled one's then has no gradient.
    """
    for tower in of._sparc.user_towers:
        tower.__class__ = _OneVector
