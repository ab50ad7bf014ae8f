"""A learner that trains in microseconds and remembers everything: order, items, randomness.

Its weights change with every sequence, with the order of sequences and of listed items, and with
its random state, so two runs that differ anywhere end with different weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from model.histories import History
from model.learning.export import Export
from model.learning.learner_state import LearnerState
from model.retrieval.item_segments import ItemSegments
from streaming.events import UserSequence
from streaming.items import Item
from tests.model.retrieval.item_segment import segment

CODES = 8


class StandInModel:
    """Answers with the most popular items: enough to tell one state from another."""

    def __init__(self, items: list[int], popularity: list[float]) -> None:
        order = sorted(range(len(items)), key=lambda n: (-popularity[n], items[n]))
        self.ranking = np.array([items[n] for n in order], np.int64)


class StandInAnswerer:
    def __init__(self, model: StandInModel) -> None:
        self.model = model

    def answer(
        self, histories: Sequence[History], now_ms: np.ndarray, k: int, exclude_history: bool = True
    ) -> np.ndarray:
        answers = np.full((len(histories), k), -1, np.int64)
        for row, history in zip(answers, histories, strict=True):
            kept = [i for i in self.model.ranking if i not in set(history.items)][:k]
            row[: len(kept)] = kept
        return answers

    def followed_by(self, model: StandInModel) -> StandInAnswerer:
        return StandInAnswerer(model)


class StandInLearner:
    def __init__(self, state: LearnerState | None = None) -> None:
        self.generator = torch.Generator().manual_seed(7)
        self.weights_C = torch.zeros(CODES)
        self.momentum_C = torch.zeros(CODES)
        self.exported_C = torch.zeros(CODES)
        self.popularity: dict[int, float] = {}
        self.steps = 0
        self.learnt = 0
        self.forgotten: dict[int, int] = {}
        self.unsaved: set[int] = set()
        self.unpublished: set[int] = set()
        if state is not None:
            tensors, rows, meta = state
            self.generator.set_state(tensors["random"])
            self.weights_C = tensors["weights"].clone()
            self.momentum_C = tensors["momentum"].clone()
            self.exported_C = tensors["exported"].clone()
            for part in rows:
                pairs = zip(part["items"].tolist(), part["popularity"].tolist(), strict=True)
                self.popularity |= dict(pairs)
            self.steps, self.learnt = meta["steps"], meta["learnt"]
            self.unpublished = set(meta["unpublished"])

    def list_items(self, items: Sequence[Item]) -> None:
        for item in items:
            self.popularity.setdefault(item.item_id, 0.0)
            self.unsaved.add(item.item_id)
            self.unpublished.add(item.item_id)
        self.weights_C[items[-1].item_id % CODES] += 0.01 * len(self.popularity)

    def learn(self, batch: Sequence[UserSequence], catching_up: bool = False) -> dict[str, float]:
        noise_C = torch.randn(CODES, generator=self.generator)
        for sequence in batch:
            assert sequence.target in self.popularity, "trained before it was listed"
            self.popularity[sequence.target] = self.popularity[sequence.target] * 0.99 + 1
            self.unsaved.add(sequence.target)
            self.unpublished.add(sequence.target)
        # Weights by place in the batch make the order matter.
        step = sum((n + 1) * (s.user_id % 13 - 6) for n, s in enumerate(batch)) / len(batch)
        step *= 0.5 if catching_up else 1.0
        self.momentum_C = 0.9 * self.momentum_C + 0.1 * noise_C * step
        self.weights_C = torch.tanh(self.weights_C + 0.05 * self.momentum_C)
        self.steps += 1
        self.learnt += len(batch)
        return {"loss": 1.0 / self.steps}

    def forget(self, user: int, but: int = 0) -> None:
        self.forgotten[user] = but

    def state(self, whole: bool = True) -> LearnerState:
        items = [i for i in self.popularity if whole or i in self.unsaved]
        self.unsaved.clear()
        dense = {
            "random": self.generator.get_state(),
            "weights": self.weights_C.clone(),
            "momentum": self.momentum_C.clone(),
            "exported": self.exported_C.clone(),
        }
        values = [self.popularity[i] for i in items]
        rows = {
            "items": torch.tensor(items, dtype=torch.int64),
            "popularity": torch.tensor(values, dtype=torch.float64),
        }
        meta = {
            "steps": self.steps,
            "learnt": self.learnt,
            "unpublished": sorted(self.unpublished),
        }
        return LearnerState(dense, [rows], meta)

    def export(self, published: ItemSegments | None = None) -> Export:
        tensors = {
            "weights": self.weights_C.clone(),
            "items": torch.tensor(list(self.popularity), dtype=torch.int64),
            "popularity": torch.tensor(list(self.popularity.values()), dtype=torch.float64),
        }
        said = [
            (row, item)
            for row, item in enumerate(self.popularity)
            if published is None or item in self.unpublished
        ]
        items = segment([i for _, i in said], [r for r, _ in said], seed=self.steps)
        return Export(tensors, items, {"kind": "stand-in"})

    def mark_published(self) -> None:
        self.exported_C = self.weights_C.clone()
        self.unpublished.clear()

    def retrieval_model(self) -> StandInModel:
        return StandInModel(list(self.popularity), list(self.popularity.values()))

    def drift(self) -> np.ndarray:
        return (self.weights_C - self.exported_C).abs().numpy()

    def codebook_health(self) -> dict[str, float]:
        return {"codes_in_use": float((self.weights_C != 0).sum())}
