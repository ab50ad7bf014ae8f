"""SPARC's architecture and the weights of its losses, as they are configured."""

from __future__ import annotations

from dataclasses import dataclass, field

from model.network import item_tower, quantizer, user_tower
from model.tables import cooccurrence


@dataclass(frozen=True)
class LossWeights:
    """Weights of the losses; 0 leaves one out.

    Attributes:
        items: softmax over the candidates, -log p(i | u).
        interests: cross-entropy of the interest head, -log p(c | u).
        distillation: cross-entropy of the interest head against the codes' shares of p(i | u).
        binary: binary cross-entropy of (user, item).
        quantization: RQ reconstruction and commitment.
        shuffled_code: BPR of right against shuffled code (10 in the paper, whose other losses
            have unknown scales).
        contrast: user-item contrastive.
        reconstruction_contrast: item-item contrastive between z and its reconstruction.
    """

    items: float = 1.0
    interests: float = 0.3
    distillation: float = 1.0
    binary: float = 0.02
    quantization: float = 0.1
    shuffled_code: float = 0.02
    contrast: float = 0.2
    reconstruction_contrast: float = 0.02


@dataclass(frozen=True)
class SparcConfig:
    """Architecture and losses.

    Attributes:
        members: user towers, each with its part of z.
        item_tower: item tower; its `dimension` is that of the whole space.
        quantizer: codebooks.
        user_tower: history encoder and code-conditioned attention.
        neighbours: co-occurrence memory.
        popularity_half_lives_days: half-lives of the recency prior.
        popularity_start: weight of the recency prior in a score before anything is learnt.
        neighbour_start: the same of neighbour features.
        evidence_dropout: share of examples whose recency prior and neighbours are hidden from the
            softmax in a training step, so that the towers learn to stand alone. With 1 their
            weights stay as they start.
        losses: weights.
    """

    members: int = 2
    item_tower: item_tower.ItemTowerConfig = field(default_factory=item_tower.ItemTowerConfig)
    quantizer: quantizer.QuantizerConfig = field(default_factory=quantizer.QuantizerConfig)
    user_tower: user_tower.UserTowerConfig = field(default_factory=user_tower.UserTowerConfig)
    neighbours: cooccurrence.CooccurrenceConfig = field(
        default_factory=cooccurrence.CooccurrenceConfig
    )
    popularity_half_lives_days: tuple[float, ...] = (2.0, 7.0, 30.0, 120.0)
    popularity_start: float = 0.25
    neighbour_start: float = 0.25
    evidence_dropout: float = 0.0
    losses: LossWeights = field(default_factory=LossWeights)

    @property
    def popularity_features(self) -> int:
        """P: one for each half-life."""
        return len(self.popularity_half_lives_days)
