"""A model that answers at random, within the rules; and ways to break them."""

from __future__ import annotations

from typing import Any

import numpy as np

from model.evaluation.online_model import Answers
from model.evaluation.protocol import Events, Queries
from model.peers.exclusion import best
from streaming.items import Item


class RandomModel:
    """Answers at random and remembers what it was shown."""

    def __init__(self, items: list[Item], replays: int = 0) -> None:
        self.ids_N = np.array([item.item_id for item in items])
        self.random = np.random.default_rng(0)
        self.replays = replays
        self.seen: list[tuple[str, int]] = []

    def warm_up(self, events: Events) -> None:
        self.seen.append(("warm_up", int(events.days_E.max())))

    def answer(self, queries: Queries) -> Answers:
        self.seen.append(("answer", queries.day))
        scores_BN = self.random.random((len(queries), len(self.ids_N)), dtype=np.float32)
        return best(self.ids_N, scores_BN, queries.histories)

    def learn(self, events: Events) -> int:
        assert len(set(events.days_E.tolist())) == 1
        self.seen.append(("learn", int(events.days_E[0])))
        return self.replays * len(events)

    def facts(self) -> dict[str, Any]:
        return {"random": True}
