"""Keeps the job running: submits it, from its newest state, whenever the cluster does not have it.

A job that fails is restarted by Flink itself from its last checkpoint, for as long as what it needs
is away. A JobManager that was killed has forgotten the job: it is submitted again from the newest
checkpoint on disk. A job that fails again and again by a cause of its own is cancelled; one that is
given up, by us or by Flink, is not submitted again: its root cause is raised.

Only the newest state may be gone on from: the transactions of its checkpoint are committed, and an
older one would write them once more. So nothing here falls back to an older checkpoint, and those
of earlier submissions are removed as soon as the job has one of its own. Nor is a missing state a
reason to begin anew: once anything has been committed, by the record in the data directory or by
what Kafka holds, the job is submitted only if an operator says from where.

Nor may two jobs go on from one state. A keeper that is killed while it submits leaves a client
behind that may still succeed; so the id of a job follows from what it goes on from and what ran
before, and of two submissions that know the same Flink takes the first.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

import structlog
from kafka.errors import KafkaError

from streaming.errors import KafkaUnavailable, StreamingError
from streaming.job.flink_rest import FINAL_STATES, FlinkRest, FlinkUnavailable
from streaming.job.outage import OwnFailures
from streaming.job.record import NO_STATE, JobRecord, RecordFile
from streaming.job.savepoints import (
    checkpoint_number,
    newest_state,
    remove_other_states,
    savepoints,
    states,
)
from streaming.job.settings import JobConfig, JobEnvironment
from streaming.job.submission import submit_in_subprocess
from streaming.statuses import Report, StreamStatus
from streaming.topic_identity import ForeignKafkaError

log = structlog.get_logger(__name__)


POLL_SECONDS = 0.5
SUBMIT_ATTEMPTS = 3
"""A cluster that is killed while it takes the job fails the submission, and is back soon after."""
UPGRADE_SECONDS = 300.0
REMEDIES = (
    "name the state to go on from with `sparc stream --restore URI`, or begin anew with "
    "`sparc stream --restore none` once the topics of the job are emptied, as all of it is written "
    "again (`sparc up --fresh` empties everything of its data directory)"
)


@dataclass
class _Job:
    identity: str
    submissions: int = 0
    alone: bool = False
    """Whether the states of earlier submissions have been removed."""
    failures: OwnFailures = field(default_factory=OwnFailures)
    looked_at: tuple[str, int] = ("", 0)
    """State and number of restarts when its failures were last asked for."""
    troubled: int | None = None
    """Completed checkpoints when it last failed; None once there is a newer one."""


class Keeper:
    """Watches one job; `step` looks once."""

    def __init__(
        self,
        config: JobConfig,
        around: JobEnvironment,
        flink: FlinkRest,
        file: RecordFile,
        committed: Callable[[], list[str]],
        submit: Callable[[JobConfig, JobEnvironment], str] = submit_in_subprocess,
        restore: str = "",
    ) -> None:
        self.config = config
        self.around = around
        self.flink = flink
        self._file = file
        self._record = file.read()
        self._committed = committed
        self._submit = submit
        # Named by the operator, and the job of before may still run.
        self._asked = restore or ("" if self._record.job else self._record.restore)
        self._job: _Job | None = None
        self._refused = 0

    def step(self) -> StreamStatus:
        """Submit the job where it is missing; says how it is.

        Raises:
            StreamingError: if Flink refuses the job, or it is given up, with the root cause; or if
                nothing says from where to go on.
        """
        try:
            task_managers = self.flink.task_managers()
            if not task_managers and self._job is None:
                return StreamStatus(state="waiting for a TaskManager", job_state="absent")
            running = [(j, s) for j, s in self.flink.jobs(self.config.name)]
            alive = [(j, s) for j, s in running if s not in FINAL_STATES]
            if not alive:
                if self._job and (self._job.identity, "FAILED") in running:
                    cause = self.flink.root_cause(self._job.identity)
                    raise StreamingError(f"Flink gave the job up: {cause}")
                return self._begin([j for j, _ in running])
            job, state = alive[0]
            if self._asked:
                raise StreamingError(
                    f"the job {self.config.name!r} runs already, as {job}: it is not begun from "
                    f"{self._asked!r}; stop it first (SIGTERM to its keeper, or Flink's own stop)"
                )
            if self._job is None or self._job.identity != job:
                log.info("job found", job=job, state=state)
                self._job = _Job(job, self._job.submissions if self._job else 0)
            counts = self.flink.checkpoints(job)
            restarts = self.flink.restarts(job)
            problem = self._problem(self._job, state, restarts, counts.completed)
        except FlinkUnavailable as error:
            return StreamStatus(state="waiting for Flink", job_state="unknown", problem=str(error))
        if counts.completed:
            self._remember(self._record.completed(job, checkpoint_number(counts.latest) or 0))
        if counts.completed and not self._job.alone:
            self._job.alone = True
            if removed := remove_other_states(self.around.checkpoints, job):
                log.info("older states removed", names=removed)
        return StreamStatus(
            state=_word(state, task_managers),
            job=job,
            job_state=state,
            checkpoints=counts.completed,
            failed_checkpoints=counts.failed,
            latest_checkpoint=counts.latest,
            submissions=self._job.submissions,
            restarts=restarts,
            problem=problem,
        )

    def _problem(self, job: _Job, state: str, restarts: int, completed: int) -> str:
        """Why the job last failed, until it has completed a checkpoint since; gives it up.

        Raises:
            StreamingError: with the root cause, if it failed too often by a cause of its own.
        """
        if (state, restarts) != job.looked_at:
            first = not job.looked_at[0]
            job.looked_at = (state, restarts)
            if state == "RESTARTING" or (restarts and not first):
                job.failures.add(self.flink.failures(job.identity))
                job.troubled = completed
        if state == "RESTARTING" and job.failures.exceed(self.config.restart_attempts):
            self.flink.cancel(job.identity)
            raise StreamingError(
                f"the job failed after {self.config.restart_attempts} restarts: "
                f"{job.failures.cause}"
            )
        if job.troubled is not None and completed > job.troubled and state == "RUNNING":
            job.troubled = None
        return "" if job.troubled is None else self.flink.root_cause(job.identity)

    def _begin(self, before: list[str]) -> StreamStatus:
        """Submit the job; `before` are the ids of those that the cluster remembers."""
        if self._asked:
            self.go_on_from(self._asked)
            self._asked = ""
        try:
            restore = self._where_to_go_on(before)
        except KafkaUnavailable as error:
            return StreamStatus(state="waiting for Kafka", job_state="absent", problem=str(error))
        place = "|".join(
            (
                self.config.name,
                self.around.checkpoints,
                restore,
                str(self._record.asked),
                *sorted(before),
            )
        )
        identity = hashlib.sha256(place.encode()).hexdigest()[:32]
        self._remember(self._record.submitted_as(identity))
        log.info("submitting the job", flink=self.around.flink, restore=restore or None)
        try:
            job = self._submit(self.config, replace(self.around, restore=restore, job_id=identity))
        except StreamingError as error:
            self._refused += 1
            if self._refused >= SUBMIT_ATTEMPTS:
                raise
            log.warning("the job was not taken", attempt=self._refused, reason=str(error))
            return StreamStatus(state="not taken", job_state="absent", problem=str(error))
        self._refused = 0
        self._job = _Job(job, (self._job.submissions if self._job else 0) + 1)
        log.info("job submitted", job=job)
        return StreamStatus(state="submitted", job_state="CREATED")

    def _where_to_go_on(self, before: list[str]) -> str:
        """URI of the state to go on from; empty to begin anew.

        Raises:
            StreamingError: if there is none, or not the newest, though something was committed.
            KafkaUnavailable: if Kafka cannot say whether something was.
        """
        asked, last = self._record.restore, self._record.checkpoint
        found, problem = None, f"none is in {self.around.checkpoints}"
        try:
            # Also when one was asked for: the job may have come further while no keeper watched.
            found = newest_state(self.around.checkpoints, self._record.forgotten)
        except StreamingError as error:
            problem = str(error)
            if (
                self._record.job and not self._refused
            ):  # submitted, and nobody knows how far it came
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
                if savepoint := self.flink.last_savepoint(job):
                    problem += f"; Flink knows of {savepoint}"
        raise StreamingError(
            f"the job {self.config.name!r} has no state to go on from, and is not begun anew, as "
            f"it would write again what it has committed ({', '.join(committed)}). Looked for the "
            f"newest checkpoint or savepoint: {problem}. To go on, {REMEDIES}"
        )

    def _remember(self, record: JobRecord) -> None:
        if record == self._record:
            return
        self._record = record
        try:
            self._file.write(record)
        except OSError as error:  # the job goes on, on a full disk too
            log.warning("the record of the job is not written", reason=str(error))

    def go_on_from(self, state: str) -> None:
        """Submit the job from this state the next time, or anew with "none"."""
        try:
            others = tuple(found.uri for found in states(self.around.checkpoints))
        except StreamingError:  # not to be looked into: then nothing is found there later either
            others = ()
        if state == NO_STATE:
            log.warning(
                "beginning anew, as asked: all of the topic is read from its start, and what its "
                "job has written stays and is written again",
                topic=self.around.topics.clicks,
                states_that_count_no_more=len(others),
            )
        self._remember(self._record.going_on_from(state, others))

    def stop_for_upgrade(self) -> str:
        """Stop the job with a savepoint, for another to go on from; empty if none was running.

        Raises:
            FlinkUnavailable: if no savepoint could be taken; the job then goes on.
        """
        running = [j for j, s in self.flink.jobs(self.config.name) if s not in FINAL_STATES]
        if not running:
            return ""
        directory = savepoints(self.around.checkpoints)
        path = self.flink.stop_with_savepoint(running[0], directory, UPGRADE_SECONDS)
        log.info("job stopped for an upgrade", job=running[0], savepoint=path)
        return path

    @property
    def has_job(self) -> bool:
        """Whether a job was submitted, or found."""
        return self._job is not None

    def cancel(self) -> None:
        """End the job at once: what it is reading is not what its state comes from."""
        with suppress(FlinkUnavailable):
            for job, state in self.flink.jobs(self.config.name):
                if state not in FINAL_STATES:
                    log.warning("job cancelled", job=job)
                    self.flink.cancel(job)

    def leave(self) -> None:
        """Stop the job so that it can go on later: with a savepoint, else by its checkpoints."""
        if self._job is None:
            return
        job = self._job.identity
        try:
            try:
                if self.flink.state(job) == "RUNNING":
                    path = self.flink.stop_with_savepoint(
                        job,
                        savepoints(self.around.checkpoints),
                        self.config.savepoint_timeout_s,
                    )
                    log.info("job stopped", savepoint=path)
                    return
            except FlinkUnavailable as error:
                log.warning(
                    "no savepoint; the job can go on from its checkpoint", reason=str(error)
                )
            if self.flink.state(job) not in (*FINAL_STATES, "UNKNOWN"):
                self.flink.cancel(job)
        except FlinkUnavailable as error:
            log.warning("job left behind", job=job, reason=str(error))


def _word(state: str, task_managers: int) -> str:
    if not task_managers:
        return "waiting for a TaskManager"
    return "running" if state == "RUNNING" else "starting"


def run(
    config: JobConfig,
    around: JobEnvironment,
    stop: threading.Event,
    report: Report,
    file: RecordFile,
    committed: Callable[[], list[str]],
    lag: Callable[[], int | None] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
    upgrade: threading.Event | None = None,
    restore: str = "",
    check: Callable[[], None] = lambda: None,
) -> bool:
    """Keep the job running until `stop` is set, or `upgrade`.

    Args:
        config: the job.
        around: where it runs.
        stop: ends the run; the job is stopped with a savepoint.
        report: is called about once a second.
        file: the record of the job.
        committed: what Kafka holds of an earlier run, in words; see `committed_work`.
        lag: records of `clicks` that no checkpoint covers yet, for the report.
        clock: monotonic seconds.
        upgrade: ends the run once the job has been stopped with a savepoint. While none can be
            taken the job goes on, and the report says so.
        restore: URI of the state to go on from, if the job has to be submitted; "none" to begin
            anew, which is refused while the job runs; empty for the newest in the directory of
            the checkpoints.
        check: looks whether the topics are those that the job's state comes from. The job is not
            submitted before it has said so, and cancelled as soon as it says no.

    Returns:
        Whether it ended for an upgrade: the caller is to start the job's new version.

    Raises:
        StreamingError: with the root cause, when the job is given up; or if nothing says from
            where to go on.
        ForeignKafkaError: from `check`.
    """
    upgrade = upgrade or threading.Event()
    flink = FlinkRest(around.flink, around.tls)
    keeper = Keeper(config, around, flink, file, committed, restore=restore)
    reported = float("-inf")
    refused = ""
    try:
        while not stop.is_set():
            if upgrade.is_set():
                upgrade.clear()
                report(StreamStatus(state="upgrading", job_state="unknown"))
                try:
                    keeper.stop_for_upgrade()
                    return True
                except FlinkUnavailable as error:
                    refused = f"not upgraded: {error}"
                    log.warning("no upgrade; the job goes on", reason=str(error))
            seen = _checked(keeper, check) or keeper.step()
            if clock() - reported >= 1.0:
                reported = clock()
                report(seen.and_says(lag=lag(), refused=refused))
            stop.wait(POLL_SECONDS)
        keeper.leave()
        report(StreamStatus(state="stopped", job_state="stopped"))
        return False
    finally:
        flink.close()


def _checked(keeper: Keeper, check: Callable[[], None]) -> StreamStatus | None:
    """Look at the topics; what to report where that has to be waited for, else None."""
    try:
        check()
    except KafkaError as error:
        if keeper.has_job:
            return None  # the job waits for Kafka itself
        return StreamStatus(state="waiting for Kafka", job_state="absent", problem=str(error))
    except ForeignKafkaError:
        keeper.cancel()
        raise
    return None
