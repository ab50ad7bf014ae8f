"""The trainer: micro-batches in, handovers out, exactly once and repeatable.

The order of a commit, which `_carry_out` and `_publish` follow:

    1. journal     the entry (a plan, or the decision to publish) is written and synced
    2. train       items are listed, the sequences answered by the last handover, then learnt
    3. checkpoint  weights, optimizer, codebook statistics, random state, replay buffer, metrics,
                   counters and the offsets after the last finished micro-batch, in one directory:
                   of tables what changed since the checkpoint before, and links to the rest
    4. handover    the exported weights, the items that changed since the handover before, and
                   their facts, in one directory; what changes is counted anew from here on
    5. prune       journal entries up to the oldest checkpoint that is kept are forgotten

Step 2 is taken after every plan, steps 3 to 5 after every decision to publish, and 3 and 5 also
in between. Before step 3 of a publication the items are forgotten that have been withdrawn for
longer than `items.grace_days`: the handover says that they are gone, and what comes after it may
take their rows.

A crash at any point costs nothing but time: the last checkpoint is restored and the entries behind
it are carried out again, from the same records, in the same order. What was not journaled has not
happened. On a CPU the weights are then equal bit for bit to those of a run without a crash; a
handover that is on disk is not written again, one that is missing is.

A micro-batch whose loss, gradient or weights are not finite is set aside in the same way: its plan
is replaced in the journal by its `Quarantine`, and what follows is a recovery as after a crash, in
which it is passed over. So the state of before goes on, and a run again ends with the same bits.
Several in a row are a sign that not the records are to blame but the state: then the trainer
stops.

A user who is to be forgotten is, in the micro-batch in which that is said (`MicroBatch.forgotten`).
Files of before know them still; so as many checkpoints as are kept are then written by themselves,
a minute apart and behind empty micro-batches where nothing else comes, until those are gone.

Nothing here knows Kafka, a disk or a clock: they come as `Source`, `Journal`, `Checkpoints`,
`Handovers` and `Clock`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from model.learning.errors import NotFiniteError
from model.training.backlog import Backlog, assemble
from model.training.checkpoint import Checkpoints
from model.training.clock import Clock, SystemClock
from model.training.config import TrainerConfig
from model.training.handover import Handovers
from model.training.journal import Entry, Journal, Publication, Quarantine
from model.training.micro_batch import MicroBatch, Plan, TrainerError, checksum
from model.training.prequential import Answerer
from model.training.progress import Progress
from model.training.publish_schedule import Schedule
from model.training.quarantine import Quarantined
from model.training.source import Source, SourceUnavailable
from model.training.training_state import LearnerFactory, TrainingState
from model.training.training_status import Status
from streaming.freed_memory import give_back
from streaming.item_lifetime import ItemsConfig
from streaming.statuses import Report

if TYPE_CHECKING:
    from model.learning.export import Export
    from model.retrieval.retrieval_model import RetrievalModel

log = structlog.get_logger(__name__)

AnswererFactory = Callable[["RetrievalModel"], Answerer]


class _NotLearnt(Exception):
    """The micro-batch of a journal entry could not be learnt; the state is useless."""

    def __init__(self, number: int, plan: Plan, reason: str) -> None:
        super().__init__(reason)
        self.entry = number, Quarantine(plan, reason)


CHECKPOINT_SECONDS = 60.0
"""Who goes on from the newest checkpoint learns at most so much again from the journal."""
POLL_SECONDS = 0.1
RETRY_SECONDS = 1.0


class Trainer:
    """Runs micro-batches from `source` through a learner; see the module's docstring."""

    def __init__(
        self,
        learner_factory: LearnerFactory,
        source: Source,
        journal: Journal,
        checkpoints: Checkpoints,
        handovers: Handovers,
        answerer_factory: AnswererFactory | None,
        config: TrainerConfig,
        clock: Clock | None = None,
        quarantined: Quarantined | None = None,
        items: ItemsConfig | None = None,
    ) -> None:
        self._quarantined = quarantined
        self._learner_factory = learner_factory
        self._source = source
        self._journal = journal
        self._checkpoints = checkpoints
        self._handovers = handovers
        self._answerer_factory = answerer_factory
        self._config = config
        self._items = items or ItemsConfig()
        self._clock = clock or SystemClock()
        self._status = Status()
        self._unavailable_since: float | None = None

    # -- the run ---------------------------------------------------------------------------

    def run(self, stop: threading.Event, report: Report) -> Progress:
        """Recover, then train until `stop` is set, or a recorded source has ended.

        Raises:
            TrainerError: when it cannot go on: source away for too long, offsets gone, disk
                full, checkpoints damaged, one micro-batch after the other that cannot be learnt.
        """
        self._report = report
        while True:
            try:
                self._recover(stop)
                if not stop.is_set():
                    self._follow(stop)
                break
            except _NotLearnt as broken:
                self._set_aside(*broken.entry)
                del self._state  # there may be no room for two
        self._checkpoint()
        self._tell("stopped", at_once=True)
        return self._state.progress

    def _recover(self, stop: threading.Event) -> None:
        """Restore the last checkpoint and carry out the journal's entries behind it again."""
        saved = self._checkpoints.newest()
        self._state = TrainingState(
            self._learner_factory, self._config.window_queries, saved, self._items.grace_ms
        )
        self._backlog: Backlog | None = None
        self._looked_at = 0
        progress = self._state.progress
        self._saved = (progress.entry, progress.trained_events, self._clock.now())
        entries = list(self._journal.entries(progress.entry))
        if entries and entries[0][0] != progress.entry + 1:
            raise TrainerError(
                f"the journal begins at entry {entries[0][0]}, the newest checkpoint ends at "
                f"{progress.entry}: what lies between is lost; restore the checkpoints, or begin "
                "anew with --fresh"
            )
        if saved or entries:
            log.info("recovering", checkpoint=progress.entry, entries=len(entries))
        if progress.handover and progress.entry == progress.handover_entry:
            self._hand_over_again()
        self._take_answerer()
        for number, entry in entries:
            self._tell("recovering")
            while not stop.is_set():
                try:
                    self._carry_out(number, entry, None)
                    break
                except SourceUnavailable as error:
                    self._wait_for_source(stop, error)
            self._unavailable_since = None
        self._checkpoint()  # so that repeated crashes do not repeat all this

    def _follow(self, stop: threading.Event) -> None:
        """Train what comes."""
        progress = self._state.progress
        self._source.seek(progress.offsets)
        self._backlog = Backlog(
            progress.offsets,
            self._config.batch_size,
            self._config.items_per_plan,
            self._config.catch_up_from,
            self._config.repeatable,
        )
        self._schedule = Schedule(self._config.publish, self._clock.now(), self._config.repeatable)
        self._tend("training")  # a crash may have come before the decision to publish
        filling_since = self._clock.now()
        final = False
        while not stop.is_set():
            now = self._clock.now()
            if not self._backlog:
                filling_since = now
            lingered = now - filling_since >= self._config.linger_seconds
            batch = self._backlog.cut(lingered or (final and self._backlog.exhausted()))
            if batch is not None:
                self._decide(batch.plan, batch)
                self._schedule.trained(self._clock.now())
                filling_since = self._clock.now()
                self._tend("catching up" if batch.plan.catching_up else "training")
                continue
            ended = final and self._backlog.exhausted()
            if ended or (self._config.repeatable and self._backlog.log_ended()):
                if progress.unpublished_events and not self._backlog:
                    self._decide(self._publication("final"))
                if ended:
                    return
            try:
                polled = self._source.poll(self._backlog.enough())
            except SourceUnavailable as error:
                self._tend("waiting for the source")
                self._wait_for_source(stop, error)
                continue
            self._unavailable_since = None
            self._backlog.offer(polled)
            final = polled.final
            if not (any(polled.sequences.values()) or any(polled.items.values()) or final):
                self._tend("training" if self._backlog else "idle")
                self._clock.wait(stop, POLL_SECONDS)

    def _wait_for_source(self, stop: threading.Event, error: SourceUnavailable) -> None:
        now = self._clock.now()
        if self._unavailable_since is None:
            self._unavailable_since = now
            log.warning("source unavailable, trying again", reason=str(error))
        waited = now - self._unavailable_since
        if waited >= self._config.source_timeout_seconds:
            raise TrainerError(
                f"{error}; waited {waited:.0f} s (trainer.source_timeout_seconds); start again "
                "when it is back: training goes on where it was"
            )
        self._tell("waiting for the source")
        self._clock.wait(stop, RETRY_SECONDS)

    # -- entries ---------------------------------------------------------------------------

    def _decide(self, entry: Entry, batch: MicroBatch | None = None) -> None:
        """Journal an entry, then carry it out."""
        number = self._state.progress.entry + 1
        self._journal.append(number, entry)
        self._carry_out(number, entry, batch)

    def _carry_out(self, number: int, entry: Entry, batch: MicroBatch | None) -> None:
        if isinstance(entry, Publication):
            self._publish(number, entry)
            return
        if isinstance(entry, Quarantine):
            batch = assemble(entry.plan, *self._source.read(entry.plan))
            facts = self._state.set_aside(number, batch, entry.reason)
            if self._quarantined is not None:
                self._quarantined.keep(facts)
            self._forget(batch)
            return
        batch = batch or assemble(entry, *self._source.read(entry))
        try:
            self._state.train(number, batch)
        except NotFiniteError as error:
            raise _NotLearnt(number, entry, str(error)) from error
        self._forget(batch)

    def _forget(self, batch: MicroBatch) -> None:
        """What is on disk of users who were forgotten is to go."""
        if users := {user for _, user in batch.forgotten}:
            self._state.progress.to_forget = self._config.keep_checkpoints
            if self._quarantined is not None:
                self._quarantined.forget(users)

    def _set_aside(self, number: int, entry: Quarantine) -> None:
        """Journal that the last plan is to be passed over; a recovery has to follow.

        Raises:
            TrainerError: if too many before it were passed over.
        """
        where = ", ".join(f"{p}: {a}-{b}" for p, (a, b) in sorted(entry.plan.sequences.items()))
        before = self._state.progress.quarantined_in_a_row
        if before >= self._config.quarantine_in_a_row:
            raise TrainerError(
                f"{before} micro-batches in a row were set aside, and the next one, the sequences "
                f"at offsets {where}, cannot be learnt either: {entry.reason}. If they are sound, "
                "the state is not: lower learner.learning_rate and start again, or begin anew with "
                "--fresh. If they are not, raise trainer.quarantine_in_a_row"
            )
        log.error(
            "micro-batch set aside: it cannot be learnt",
            entry=number,
            offsets=where,
            events=entry.plan.events,
            reason=entry.reason,
        )
        self._journal.append(number, entry)

    def _publish(self, number: int, entry: Publication) -> None:
        published = self._handovers.items(self._state.progress.handovers)
        export = self._state.publish(number, entry.sequence, entry.reason, published)
        oldest = self._save()
        self._hand_over(export)
        self._state.learner.mark_published()
        self._take_answerer()
        self._journal.prune(oldest)
        log.info(
            "handover published",
            sequence=entry.sequence,
            reason=entry.reason,
            trained_events=self._state.progress.trained_events,
        )
        del export
        give_back()
        self._tell(at_once=True)

    def _hand_over(self, export: Export) -> None:
        """Publish the last publication's handover, unless it or a later one is there."""
        facts = self._state.progress.handover
        if facts is not None and facts.sequence > self._handovers.newest():
            self._handovers.publish(facts.sequence, export, facts)

    def _hand_over_again(self) -> None:
        """After a checkpoint that a handover comes behind: the crash may have come between them.

        The checkpoint knows what was to be said, so the handover says the same again; unless the
        one that it follows was damaged meanwhile: then it says everything.
        """
        learner, progress = self._state.learner, self._state.progress
        facts = progress.handover
        if facts is not None and facts.sequence > self._handovers.newest():
            published = self._handovers.items(facts.follows)
            if published is None:
                progress.handover = facts.model_copy(update={"follows": 0})
            self._hand_over(learner.export(published))
        learner.mark_published()

    def _take_answerer(self) -> None:
        """Answer with the last handover from now on: with what users would be served."""
        progress, before = self._state.progress, self._state.answerer
        self._state.answerer = None
        if self._answerer_factory is None or not progress.handovers:
            return
        model = self._handovers.model(progress.handovers)
        if model is None and progress.entry == progress.handover_entry:
            model = self._state.learner.retrieval_model()
        if model is not None:
            make = self._answerer_factory if before is None else before.followed_by
            self._state.answerer = make(model)

    def _publication(self, reason: str) -> Publication:
        """The decision to publish under a number that was never used."""
        newest = max(self._state.progress.handovers, self._handovers.newest())
        return Publication(newest + 1, reason)

    # -- what follows a micro-batch --------------------------------------------------------

    def _tend(self, state: str) -> None:
        """Publish and checkpoint where due, and report."""
        progress = self._state.progress
        reason = self._schedule.due(progress, self._clock.now(), self._moved_codes())
        if reason is not None:
            self._decide(self._publication(reason))
            self._schedule.published(self._clock.now())
        _, events, at = self._saved
        if (
            progress.trained_events - events >= self._config.checkpoint_events
            or self._clock.now() - at >= CHECKPOINT_SECONDS
        ):
            if progress.to_forget and self._saved[0] == progress.entry:
                nothing = Plan({}, {}, 0, checksum([]))
                self._decide(nothing, MicroBatch(nothing, [], [], 0))
            self._checkpoint()
        self._tell(state)

    def _moved_codes(self) -> float | None:
        """The share of codes that drifted, every so many micro-batches."""
        config, batches = self._config.publish, self._state.progress.micro_batches
        if batches % config.drift_every or batches == self._looked_at:
            return None
        self._looked_at = batches
        return float((self._state.learner.drift() > config.drift).mean())

    def _save(self) -> int:
        progress = self._state.progress
        anew = progress.to_forget > 0
        progress.to_forget -= anew
        oldest = self._checkpoints.save(self._state.save, anew=anew)
        self._saved = (progress.entry, progress.trained_events, self._clock.now())
        return oldest

    def _checkpoint(self) -> None:
        if self._saved[0] != self._state.progress.entry:
            self._journal.prune(self._save())

    def _tell(self, state: str | None = None, at_once: bool = False) -> None:
        self._status.state = state or self._status.state
        if self._status.is_due(self._clock.now()) or at_once:
            self._report(self._status.describe(self._clock.now(), self._state, self._backlog))
