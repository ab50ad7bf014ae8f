"""SPARC in the leave-one-out protocol, trained by epochs and answered by its indexes.

The first epoch is one pass as in production; each further one replays as many examples as there
are. All codes are searched; what soft search alone would have answered stands beside it.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from indexer.evaluation.online_sparc import WARM_UP_STEP, OnlineSparcConfig
from indexer.evaluation.published_versions import Handover, Publisher, Served
from indexer.indexing.config import IndexerConfig
from indexer.search.config import SearchConfig
from model.evaluation.online_model import Answers
from model.evaluation.protocol import LIST_LENGTH, Events, Queries
from model.evaluation.user_sequences import SequencesOfUsers
from model.learning.learner import Learner
from streaming.items import Item


class SparcByEpochs:
    """SPARC as `TrainedByEpochs`; a deep copy answers, and can no longer be trained."""

    def __init__(
        self,
        items: Sequence[Item],
        config: OnlineSparcConfig,
        indexer: IndexerConfig,
        search: SearchConfig,
        device: str = "cpu",
    ) -> None:
        self._items = list(items)
        self._config = config
        self._device = device
        self._publisher = Publisher(items, indexer, search)
        self._events: Events | None = None
        self._learner: Learner | None = None
        self._served: Served | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> SparcByEpochs:
        self.served()
        copied = copy.copy(self)  # a version never changes, so it may be shared
        copied._learner = None
        return copied

    def observe(self, events: Events) -> None:
        """Take the events to be trained on; all of them fit into the replay buffer."""
        self._events = events
        room = max(self._config.learner.replay_capacity, len(events))
        config = dataclasses.replace(self._config.learner, replay_capacity=room)
        self._learner = Learner(config, self._device)
        self._learner.list_items(self._items)

    def epoch(self) -> float:
        """One pass in micro-batches the first time, then as many replayed ones."""
        learner, events = self._learner, self._events
        if learner is None or events is None:
            raise RuntimeError("a copy of a trained model answers; train the original")
        first = learner.replayed == 0
        size = WARM_UP_STEP
        losses = []
        if first:
            sequences = list(SequencesOfUsers().take(events))
            for a in range(0, len(sequences), size):
                losses.append(learner.learn(sequences[a : a + size], replay=0)["loss"])
        else:
            step = min(size, len(events))
            for _ in range(-(-len(events) // step)):
                losses.append(learner.learn_replayed(step)["loss"])
        self._served = None
        return float(np.mean(losses))

    def served(self) -> Served:
        """The newest version, with its index."""
        if self._served is None:
            if self._learner is None:
                raise RuntimeError("there is nothing to answer from: observe events first")
            export = self._learner.export()
            self._served = self._publisher.once(Handover(export, export.model(self._device)))
        return self._served

    def answer(self, queries: Queries) -> Answers:
        """The best of all items: every code is searched."""
        return self._answer(queries, self.served().handover.model.first_level_codes)

    def soft_search(self) -> _SoftSearch:
        """The same model, searching the configured number of codes."""
        return _SoftSearch(self)

    def _answer(self, queries: Queries, codes: int | None) -> Answers:
        now_ms = np.full(len(queries), queries.now_ms, dtype=np.int64)
        found = self.served().search.search(queries.histories, now_ms, LIST_LENGTH, codes)
        return Answers(found.items_BK, found.scores_BK)

    def facts(self) -> dict[str, Any]:
        """Settings of the learner."""
        return dataclasses.asdict(self._config)


@dataclass(frozen=True)
class _SoftSearch:
    """The best items of the codes that are searched."""

    model: SparcByEpochs

    def answer(self, queries: Queries) -> Answers:
        return self.model._answer(queries, None)
