"""Everything that the journal's entries change, and how one of them changes it.

The learner, the last trained positions, the prequential metrics and the counters: a function of
the entries alone, saved and restored as one.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from model.artifacts.handover_facts import HandoverFacts
from model.histories import History
from model.learning.learner_state import LearnerState, Tensors, by_group
from model.training.checkpoint import Saved
from model.training.micro_batch import MicroBatch, TrainerError
from model.training.prequential import DEPTH, Answerer, Prequential
from model.training.progress import Progress
from model.training.quarantine import quarantine_facts
from model.training.trained_positions import TrainedPositions
from model.training.withdrawals import Withdrawals
from streaming.events import UserSequence

if TYPE_CHECKING:
    from model.learning.export import Export
    from model.learning.learner import Learner
    from model.retrieval.item_segments import ItemSegments
    from model.training.group import LedLearner

LearnerFactory = Callable[[LearnerState | None], "Learner | LedLearner"]
"""Makes a new learner from None, or goes on from what `Learner.state` gave."""


CATCH_UP_SHARE = 4
"""Of a micro-batch that catches up one sequence in so many is answered before it is learnt."""


class TrainingState:
    """A learner and all that the trainer remembers, after some entry of the journal.

    `saved` is a checkpoint to go on from; None begins anew. `window_queries` is the length of
    the sliding window of the prequential metrics. `health` is the codebook's at the last
    publication; looking at it for every status would cost a pass over the catalogue each.
    `grace_ms` is how long after it was withdrawn an item is forgotten, by the time of events.
    """

    def __init__(
        self,
        learner_factory: LearnerFactory,
        window_queries: int,
        saved: Saved | None,
        grace_ms: int,
    ) -> None:
        self.answerer: Answerer | None = None
        self.losses: dict[str, float] = {}
        self.health: dict[str, float] = {}
        self.progress = Progress()
        self._positions = TrainedPositions()
        self._withdrawals, self._grace_ms = Withdrawals(), grace_ms
        self.prequential = Prequential(window_queries)
        self._beside = ThreadPoolExecutor(1, "answers")
        if saved is None:
            self.learner = learner_factory(None)
        else:
            dense = by_group(saved.dense)
            parts = self._apply(saved.rows)
            self.learner = learner_factory(
                LearnerState(dense["learner"], parts, saved.meta["learner"])
            )
            self.progress = Progress.from_json(saved.meta["trainer"])
            self.prequential.load(_arrays(dense["prequential"]))
            self.health = self.learner.codebook_health()

    def _apply(self, rows: Iterable[Tensors]) -> Iterator[Tensors]:
        """Take over what is the trainer's own, and hand on the learner's."""
        for part in map(by_group, rows):
            self._positions.apply(_arrays(part["positions"]))
            if "withdrawals" in part:  # an earlier version did not keep them
                self._withdrawals.apply(_arrays(part["withdrawals"]))
            self.prequential.apply(_arrays(part["prequential"]))
            yield part["learner"]

    def save(self, whole: bool) -> Saved:
        """The state as a checkpoint holds it, with all rows or those that changed since then."""
        learner = self.learner.state(whole)
        trainer = self.progress.to_json()
        dense = {f"learner.{name}": tensor for name, tensor in learner.dense.items()}
        dense |= _tensors("prequential", self.prequential.figures())
        (learnt,) = learner.rows
        rows = {f"learner.{name}": tensor for name, tensor in learnt.items()}
        rows |= _tensors("positions", self._positions.changes(whole))
        rows |= _tensors("withdrawals", self._withdrawals.changes(whole))
        rows |= _tensors("prequential", self.prequential.changes(whole))
        meta = {"learner": learner.meta, "trainer": trainer}
        return Saved(self.progress.entry, dense, [rows], meta)

    def train(self, number: int, batch: MicroBatch) -> None:
        """Carry out entry `number`: list the items, answer the sequences, and learn them.

        Answers are the published model's, which learning does not touch, so a second core finds
        them meanwhile; they are judged by what was counted before.

        Raises:
            NotFiniteError: if they cannot be learnt; this state is then useless.
        """
        fresh = self._take(batch)
        targets = np.array([s.target for s in fresh], np.int64)
        unlisted = int((~self.prequential.knows(targets)).sum())
        catching_up = batch.plan.catching_up
        asked = fresh[::CATCH_UP_SHARE] if catching_up else fresh
        queries = [s for s in asked if s.history_items] if self.answerer is not None else []
        answers = self._beside.submit(self._answers, queries) if queries else None
        if fresh:
            self.losses = self.learner.learn(fresh, catching_up=catching_up)
        if answers is not None:
            self.prequential.judge(queries, answers.result())
        self._forget(batch, fresh)
        self.prequential.learn(fresh)
        self.progress.count(batch, [s.event_time for s in fresh])
        self.progress.unlisted_targets += unlisted
        self.progress.entry = number

    def _take(self, batch: MicroBatch) -> list[UserSequence]:
        """List the items; returns the sequences that have not been seen before."""
        fresh = []
        forgotten = deque(batch.forgotten)
        for place, sequence in enumerate(batch.sequences):
            while forgotten and forgotten[0][0] <= place:
                self._positions.forget(forgotten.popleft()[1])
            if sequence.position > self._positions[sequence.user_id]:
                self._positions[sequence.user_id] = sequence.position
                fresh.append(sequence)
        for _, user in forgotten:
            self._positions.forget(user)
        if batch.items:
            self.learner.list_items(batch.items)
            self.prequential.list_items(item.item_id for item in batch.items)
        self._withdrawals.end(item.item_id for item in batch.items)
        self._withdrawals.begin(batch.withdrawn)
        return fresh

    def _forget(self, batch: MicroBatch, fresh: Sequence[UserSequence]) -> None:
        """Let the learner forget users, but not what it learnt of them behind the last request."""
        last = {user: place for place, user in batch.forgotten}
        if not last:
            return
        learnt = {id(s) for s in fresh}
        after = Counter(
            s.user_id
            for place, s in enumerate(batch.sequences)
            if id(s) in learnt and place >= last.get(s.user_id, len(batch.sequences))
        )
        for user in last:
            self.learner.forget(user, after[user])
        self.progress.forget(last)

    def set_aside(self, number: int, batch: MicroBatch, reason: str) -> dict[str, Any]:
        """Carry out entry `number`: list the items, and neither answer nor learn the sequences.

        Returns what is to be known of it.
        """
        fresh = self._take(batch)
        facts = quarantine_facts(number, batch, len(fresh), reason)
        self.progress.set_aside(batch, len(fresh), facts)
        self._forget(batch, [])
        self.progress.entry = number
        return facts

    def _answers(self, queries: list[UserSequence]) -> np.ndarray:
        """The items of each, best first: int64 (B, DEPTH), padded with -1."""
        assert self.answerer is not None  # noqa: S101 - see `train`
        histories = [History(s.history_items, s.history_times) for s in queries]
        now_ms = np.array([s.event_time for s in queries], np.int64)
        return self.answerer.answer(histories, now_ms, DEPTH)

    def _forget_items(self) -> None:
        """Forget the items that have been withdrawn for longer than the grace."""
        newest = max(self.progress.event_time_range, default=0)
        if len(item_ids := self._withdrawals.take(newest - self._grace_ms)):
            self.learner.forget_items(item_ids)
            self.prequential.forget(item_ids)

    def publish(
        self, number: int, sequence: int, reason: str, published: ItemSegments | None
    ) -> Export:
        """Carry out entry `number`: forget what is due, export the weights as handover `sequence`.

        Returns what was exported; the facts are in `progress.handover`. `published` is what the
        handover before said of the items; None: say all of them.

        Raises:
            TrainerError: if a weight is not finite.
        """
        progress = self.progress
        self._forget_items()
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
            follows=progress.handovers if published is not None else 0,
        )
        export = self.learner.export(published)
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


def _tensors(group: str, arrays: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {f"{group}.{name}": torch.from_numpy(array) for name, array in arrays.items()}


def _arrays(tensors: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in tensors.items()}
