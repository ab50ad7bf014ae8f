"""What the protocol drives: a model that answers a day and then learns it.

Shapes: B queries, K items of an answer.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np

from model.evaluation.protocol import Events, Queries


class Answers(NamedTuple):
    """The best items of each query.

    Attributes:
        items_BK: int64 item ids, best first, K = 50, none of the user's history.
        scores_BK: float32, never ascending.
    """

    items_BK: np.ndarray
    scores_BK: np.ndarray


class OnlineModel(Protocol):
    """What the runner drives: SPARC and every peer."""

    def warm_up(self, events: Events) -> None:
        """Train on the warm-up in any way. Called once, first."""

    def answer(self, queries: Queries) -> Answers:
        """Answer all queries of a day from what was learnt on earlier days."""

    def learn(self, events: Events) -> int:
        """Learn the events of one day, each once; return how many older ones were replayed."""

    def facts(self) -> dict[str, Any]:
        """Settings and sizes for the report, as plain JSON values."""
