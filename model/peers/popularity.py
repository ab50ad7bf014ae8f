"""Popularity that fades: the same list for everyone, the items of the last days first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from model.evaluation.online_model import Answers
from model.evaluation.protocol import Events, Queries
from model.peers.decay import DecayedCounts
from model.peers.exclusion import best
from streaming.items import Item


@dataclass(frozen=True)
class PopularityConfig:
    """Settings of the popularity peer.

    Attributes:
        half_life: days after which an event counts half.
    """

    half_life: float = 7.0


class Popularity:
    """Ranks items by their events, each halved every `half_life` days; ties by ascending id."""

    def __init__(self, items: Sequence[Item], config: PopularityConfig) -> None:
        self._config = config
        self._ids_N = np.array([item.item_id for item in items], dtype=np.int64)
        self._counts = DecayedCounts(len(items), config.half_life)

    def warm_up(self, events: Events) -> None:
        """Count."""
        self._counts.add_all(np.searchsorted(self._ids_N, events.items_E), events.days_E)

    def answer(self, queries: Queries) -> Answers:
        """The same order for all, less each user's history."""
        counts_N = self._counts.at(queries.day).astype(np.float32)
        scores_BN = np.tile(counts_N, (len(queries), 1))
        return best(self._ids_N, scores_BN, queries.histories)

    def learn(self, events: Events) -> int:
        """Count; nothing is replayed."""
        self.warm_up(events)
        return 0

    def facts(self) -> dict[str, Any]:
        """The settings."""
        return asdict(self._config)
