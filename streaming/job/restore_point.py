"""Which state the job goes on from: the newest, unless an operator has named one.

Only the newest state may be gone on from: the transactions of its checkpoint are committed, and an
older one would write them once more. So nothing here falls back to an older checkpoint. Nor is a
missing state a reason to begin anew: once anything has been committed, by the record in the data
directory or by what Kafka holds, the job is submitted only if an operator says from where.

Nor may two jobs go on from one state. A supervisor that is killed while it submits leaves a client
behind that may still succeed; so the id of a job follows from what it goes on from and what ran
before, and of two submissions that know the same Flink takes the first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress

import structlog

from streaming.errors import StreamingError
from streaming.job.flink_rest import FlinkRest, FlinkUnavailable
from streaming.job.record import NO_STATE, JobRecord, RecordFile
from streaming.job.savepoints import newest_state, states
from streaming.job.settings import JobConfig, JobEnvironment

log = structlog.get_logger(__name__)

REMEDIES = (
    "name the state to go on from with `sparc stream --restore URI`, or begin anew with "
    "`sparc stream --restore none` once the topics of the job are emptied, as all of it is written "
    "again (`sparc up --fresh` empties everything of its data directory)"
)


class RestorePoint:
    """Finds the state to go on from, and keeps the record of how far the job has come.

    Args:
        config: the job.
        environment: where it runs.
        flink: the cluster.
        file: the record.
        committed: what Kafka holds of an earlier run, in words; see `committed_work`.
        asked: the state that an operator names; empty for none.
    """

    def __init__(
        self,
        config: JobConfig,
        environment: JobEnvironment,
        flink: FlinkRest,
        file: RecordFile,
        committed: Callable[[], list[str]],
        asked: str = "",
    ) -> None:
        self._config = config
        self._environment = environment
        self._flink = flink
        self._file = file
        self._record = file.read()
        self._committed = committed
        # Named by the operator, and the job of before may still run.
        self.asked = asked or ("" if self._record.job else self._record.restore)

    def ask_for(self, state: str) -> None:
        """The next job is to go on from this state, or to begin anew with "none"."""
        try:
            others = tuple(found.uri for found in states(self._environment.checkpoints))
        except StreamingError:  # not to be looked into: then nothing is found there later either
            others = ()
        if state == NO_STATE:
            log.warning(
                "beginning anew, as asked: all of the topic is read from its start, and what its "
                "job has written stays and is written again",
                topic=self._environment.topics.clicks,
                states_that_count_no_more=len(others),
            )
        self._remember(self._record.going_on_from(state, others))

    def find(self, before: list[str], *, refused: bool) -> str:
        """URI of the state to go on from; empty to begin anew.

        Args:
            before: ids of the jobs that the cluster remembers.
            refused: the last submission was not taken, so it has not come any further.

        Raises:
            StreamingError: if there is none, or not the newest, though something was committed.
            KafkaUnavailable: if Kafka cannot say whether something was.
        """
        if self.asked:
            self.ask_for(self.asked)
            self.asked = ""
        asked, last = self._record.restore, self._record.checkpoint
        found, problem = None, f"none is in {self._environment.checkpoints}"
        try:
            # Also when one was asked for: the job may have come further while nobody watched it.
            found = newest_state(self._environment.checkpoints, self._record.forgotten)
        except StreamingError as error:
            problem = str(error)
            if self._record.job and not refused:  # nobody knows how far it came
                asked = ""
        if found and found.number >= last:
            return found.uri
        if asked and not found:
            return "" if asked == NO_STATE else asked
        if found:
            problem = f"the newest is number {found.number}, {found.uri}"
        committed = [f"its checkpoint {last} was complete"] if last else []
        if not (committed := committed + self._committed()):
            return ""
        for job in before:
            with suppress(FlinkUnavailable):
                if savepoint := self._flink.last_savepoint(job):
                    problem += f"; Flink knows of {savepoint}"
        raise StreamingError(
            f"the job {self._config.name!r} has no state to go on from, and is not begun anew, as "
            f"it would write again what it has committed ({', '.join(committed)}). Looked for the "
            f"newest checkpoint or savepoint: {problem}. To go on, {REMEDIES}"
        )

    def submission(self, restore: str, before: list[str]) -> str:
        """The id of the job that goes on from there, on record from now on."""
        known = (
            self._config.name,
            self._environment.checkpoints,
            restore,
            str(self._record.asked),
            *sorted(before),
        )
        identity = hashlib.sha256("|".join(known).encode()).hexdigest()[:32]
        self._remember(self._record.submitted_as(identity))
        return identity

    def completed(self, job: str, checkpoint: int) -> None:
        """The job has completed a checkpoint of its own."""
        self._remember(self._record.completed(job, checkpoint))

    def _remember(self, record: JobRecord) -> None:
        if record == self._record:
            return
        self._record = record
        try:
            self._file.write(record)
        except OSError as error:  # the job goes on, on a full disk too
            log.warning("the record of the job is not written", reason=str(error))
