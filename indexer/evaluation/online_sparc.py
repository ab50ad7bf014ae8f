"""SPARC in the prequential protocol, answered by the indexes that would be live.

The learner is the pipeline's; what differs is that the log comes from a file. Before the queries
of a day are answered, what was learnt is published as a new version, and of the items what changed.
Other ways of answering can be asked beside it: they see the same queries and the same versions, and
change nothing.

Warm-up: one pass in micro-batches, as in production, then `replay_epochs` passes' worth of replay.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from indexer.evaluation.config import EvaluationConfig
from indexer.evaluation.published_versions import Handover, Publisher, Served
from indexer.indexing.config import IndexerConfig
from indexer.search.answers import Answers as Found
from indexer.search.config import SearchConfig
from model.evaluation.online_model import Answers
from model.evaluation.protocol import Events, Queries
from model.evaluation.user_sequences import SequencesOfUsers
from model.learning.config import LearnerConfig
from model.learning.export import Export
from model.learning.learner import Learner
from model.retrieval.item_segments import ItemSegments
from model.retrieval.retrieval_model import RetrievalModel
from streaming.items import Item

WARM_UP_STEP = 512
"""Examples in a step of the warm-up, where there is time for large ones."""


@dataclass(frozen=True)
class OnlineSparcConfig:
    """How SPARC takes part.

    Attributes:
        learner: the learner's settings.
        batch_size: events in a micro-batch.
        replay, replay_epochs: see `EvaluationConfig`.
    """

    learner: LearnerConfig = field(default_factory=LearnerConfig)
    batch_size: int = 256
    replay: float = EvaluationConfig.replay
    replay_epochs: float = EvaluationConfig.replay_epochs


class OnlineSparc:
    """`OnlineModel` over learner, index and soft search.

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
        self.config = config
        self.learner = Learner(config.learner, device, one_user_vector=one_user_vector)
        self.learner.list_items(items)
        self.publisher = Publisher(items, indexer, search)
        self._frozen_after_warm_up = frozen_after_warm_up
        self._device = device
        self._sequences = SequencesOfUsers()
        self._published: Served | None = None
        self._items: ItemSegments | None = None

    def warm_up(self, events: Events) -> None:
        """One pass in the order of time, without replay, then replay alone."""
        self._learn(events, WARM_UP_STEP, replay=0)
        for _ in range(round(self.config.replay_epochs * len(events) / WARM_UP_STEP)):
            self.learner.learn_replayed(WARM_UP_STEP)
        self.learner.codebook_frozen = self._frozen_after_warm_up

    def answer(self, queries: Queries) -> Answers:
        """Answers of the newest version, made of what was learnt before this day."""
        if self._published is None:
            export = self.learner.export(self._items, queries.now_ms)
            self.learner.mark_published()
            before = self._items
            self._items = (
                before.followed_by(export.segment) if before else ItemSegments.of([export.segment])
            )
            handover = Handover(export, self.retrieval_model(export, self._items))
            self._published = self.publisher.publish(handover)
        self.served = self._published
        self.found = self.served.answer(queries)
        return Answers(self.found.items_BK, self.found.scores_BK)

    def learn(self, events: Events) -> int:
        """One day, in micro-batches; what is served is out of date from then on.

        Returns the number of replayed examples.
        """
        self._published = None
        before = self.learner.replayed
        self._learn(events, self.config.batch_size, self.config.replay)
        return self.learner.replayed - before

    def _learn(self, events: Events, size: int, replay: float) -> None:
        sequences = list(self._sequences.take(events))
        for a in range(0, len(sequences), size):
            self.learner.learn(sequences[a : a + size], replay)

    def retrieval_model(self, export: Export, items: ItemSegments) -> RetrievalModel:
        """The model that is made of it, and of what was published of the items."""
        return RetrievalModel(export.tensors, export.facts, items, self._device)

    def facts(self) -> dict[str, Any]:
        """Configuration and codebook health."""
        return dataclasses.asdict(self.config) | {"health": self.learner.codebook_health()}
