"""SPARC in the prequential protocol, answered by the indexes that would be live.

Learning is that of `model.evaluation.prequential_run`; before the queries of a day are answered,
what was learnt is published as a new version. Other ways of answering can be asked beside it: they
see the same queries and the same versions, and change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from indexer.evaluation.published_versions import Handover, Publisher, Served
from indexer.indexing.config import IndexerConfig
from indexer.search.answers import Answers as Found
from indexer.search.soft_search import SearchConfig
from model.evaluation.prequential_run import OnlineSparc, OnlineSparcConfig
from model.evaluation.protocol import Events, Queries
from model.evaluation.runner import Answers
from model.retrieval.retrieval_model import RetrievalModel
from streaming.events import Item


class ServedSparc(OnlineSparc):
    """`runner.OnlineModel` over learner, index and soft search.

    Args:
        items: the catalogue.
        config: how the learner takes part.
        indexer: thresholds of the rebuild.
        search: how queries are answered.
        device: "cpu" or "cuda".
        one_user_vector: a control; see `Sparc`.
        frozen_after_warm_up: a control: the codebooks learn in the warm-up only.

    Attributes:
        publisher: makes the versions.
        served: the version that answered last.
        found: its answers to the last queries, with codes and probabilities.
    """

    served: Served
    found: Found

    def __init__(
        self,
        items: Sequence[Item],
        config: OnlineSparcConfig,
        indexer: IndexerConfig,
        search: SearchConfig,
        device: str = "cpu",
        *,
        one_user_vector: bool = False,
        frozen_after_warm_up: bool = False,
    ) -> None:
        super().__init__(
            items,
            config,
            device,
            one_user_vector=one_user_vector,
            frozen_after_warm_up=frozen_after_warm_up,
        )
        self._device = device
        self.publisher = Publisher(items, indexer, search)
        self._published: Served | None = None

    def answer(self, queries: Queries) -> Answers:
        """Answers of the newest version, made of what was learnt before this day."""
        if self._published is None:
            tensors, facts = self.learner.export(queries.now_ms)
            handover = Handover(tensors, facts, self.retrieval_model(tensors, facts))
            self._published = self.publisher.publish(handover)
        self.served = self._published
        self.found = self.served.answer(queries)
        return Answers(self.found.items_BK, self.found.scores_BK)

    def learn(self, events: Events) -> int:
        """One day; what is served is out of date from then on."""
        self._published = None
        return super().learn(events)

    def retrieval_model(self, tensors: dict[str, Any], facts: dict[str, Any]) -> RetrievalModel:
        """The model that these weights make."""
        return RetrievalModel(tensors, facts, self._device)
