"""The control that shows what learning online is worth: trained on the warm-up, then never."""

from __future__ import annotations

from typing import Any

from model.evaluation.online_model import Answers, OnlineModel
from model.evaluation.protocol import Events, Queries


class Frozen:
    """A model that stops learning after the warm-up; histories still grow with the queries."""

    def __init__(self, model: OnlineModel) -> None:
        self._model = model

    def warm_up(self, events: Events) -> None:
        """Train the model."""
        self._model.warm_up(events)

    def answer(self, queries: Queries) -> Answers:
        """Ask the model."""
        return self._model.answer(queries)

    def learn(self, events: Events) -> int:
        """Nothing."""
        return 0

    def facts(self) -> dict[str, Any]:
        """Those of the model, and that it is frozen."""
        return self._model.facts() | {"frozen": True}
