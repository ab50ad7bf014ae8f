"""Everything that the journal's entries change, and how one of them changes it.

The learner, the last trained positions, the prequential metrics and the counters: a function of
the entries alone, saved and restored as one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from model.artifacts.handover_facts import HandoverFacts
from model.histories import History
from model.training.checkpoint import Saved
from model.training.micro_batch import MicroBatch, TrainerError
from model.training.prequential import DEPTH, Answerer, Prequential
from model.training.progress import Progress
from model.training.quarantine import quarantine_facts
from model.training.trained_positions import TrainedPositions
from streaming.events import UserSequence

if TYPE_CHECKING:
    from model.learning.export import Export
    from model.learning.learner import Learner

LearnerFactory = Callable[[tuple[dict[str, torch.Tensor], dict[str, Any]] | None], "Learner"]
"""Makes a new learner from None, or goes on from what `Learner.state()` gave."""


CATCH_UP_SHARE = 4
"""Of a micro-batch that catches up one sequence in so many is answered before it is learnt."""


class TrainingState:
    """A learner and all that the trainer remembers, after some entry of the journal.

    `saved` is a checkpoint to go on from; None begins anew. `window_queries` is the length of
    the sliding window of the prequential metrics. `health` is the codebook's at the last
    publication; looking at it for every status would cost a pass over the catalogue each.
    """

    def __init__(
        self, learner_factory: LearnerFactory, window_queries: int, saved: Saved | None
    ) -> None:
        self.answerer: Answerer | None = None
        self.losses: dict[str, float] = {}
        self.health: dict[str, float] = {}
        if saved is None:
            self.learner = learner_factory(None)
            self.progress = Progress()
            self._positions = TrainedPositions()
            self.prequential = Prequential(window_queries)
        else:
            self.learner = learner_factory((saved.tensors, saved.meta["learner"]))
            self.progress = Progress.from_json(saved.meta["trainer"])
            self._positions = TrainedPositions(_under("positions.", saved.arrays))
            self.prequential = Prequential(window_queries, _under("prequential.", saved.arrays))
            self.health = self.learner.codebook_health()

    def save(self) -> Saved:
        """The state as a checkpoint holds it."""
        tensors, meta = self.learner.state()
        arrays = {f"positions.{k}": v for k, v in self._positions.arrays().items()}
        arrays |= {f"prequential.{k}": v for k, v in self.prequential.arrays().items()}
        trainer = self.progress.to_json()
        return Saved(self.progress.entry, tensors, arrays, {"learner": meta, "trainer": trainer})

    def train(self, number: int, batch: MicroBatch) -> None:
        """Carry out entry `number`: list the items, answer the sequences, then learn them.

        Raises:
            NotFiniteError: if they cannot be learnt; this state is then useless.
        """
        fresh = self._take(batch)
        unlisted = sum(not self.prequential.knows(s.target) for s in fresh)
        catching_up = batch.plan.catching_up
        self._answer(fresh[::CATCH_UP_SHARE] if catching_up else fresh)
        if fresh:
            self.losses = self.learner.learn(fresh, catching_up=catching_up)
        self.prequential.learn(fresh)
        self.progress.count(batch, [s.event_time for s in fresh])
        self.progress.unlisted_targets += unlisted
        self.progress.entry = number

    def _take(self, batch: MicroBatch) -> list[UserSequence]:
        """List the items; returns the sequences that have not been seen before."""
        fresh = []
        for sequence in batch.sequences:
            if sequence.position > self._positions[sequence.user_id]:
                self._positions[sequence.user_id] = sequence.position
                fresh.append(sequence)
        if batch.items:
            self.learner.list_items(batch.items)
            self.prequential.list_items(item.item_id for item in batch.items)
        return fresh

    def set_aside(self, number: int, batch: MicroBatch, reason: str) -> dict[str, Any]:
        """Carry out entry `number`: list the items, and neither answer nor learn the sequences.

        Returns what is to be known of it.
        """
        fresh = self._take(batch)
        facts = quarantine_facts(number, batch, len(fresh), reason)
        self.progress.set_aside(batch, len(fresh), facts)
        self.progress.entry = number
        return facts

    def _answer(self, sequences: list[UserSequence]) -> None:
        queries = [s for s in sequences if s.history_items]
        if self.answerer is None or not queries:
            return
        histories = [History(s.history_items, s.history_times) for s in queries]
        now_ms = np.array([s.event_time for s in queries], np.int64)
        self.prequential.judge(queries, self.answerer.answer(histories, now_ms, DEPTH))

    def publish(self, number: int, sequence: int, reason: str) -> Export:
        """Carry out entry `number`: export the weights as handover `sequence`.

        Returns what was exported; the facts are in `progress.handover`.

        Raises:
            TrainerError: if a weight is not finite.
        """
        progress = self.progress
        self.health = self.learner.codebook_health()
        facts = HandoverFacts(
            schema_version=HandoverFacts.VERSION,
            sequence=sequence,
            reason=reason,
            offsets=progress.offsets_json(),
            event_time_range=list(progress.event_time_range),
            trained_events=progress.trained_events,
            micro_batches=progress.micro_batches,
            metrics=self.prequential.metrics() | self.health,
            drift=[float(d) for d in self.learner.drift()],
        )
        export = self.learner.export()
        wrong = [
            f"{name} is not finite"
            for name, tensor in export.tensors.items()
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())
        ]
        if flaw := export.segment.flaw():
            wrong.append(flaw)
        if wrong:
            raise TrainerError(
                f"{wrong[0]} after micro-batch {progress.micro_batches}: nothing was published; "
                "lower the learning rate and begin anew with --fresh"
            )
        self.prequential.fix_head()
        progress.entry = progress.handover_entry = number
        progress.handover = facts.model_copy(update={"model": export.facts})
        progress.published_events = progress.trained_events
        progress.published_event_time = max(progress.event_time_range, default=None)
        return export


def _under(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
