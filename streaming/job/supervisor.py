"""Keeps the job running: submits it, from its newest state, whenever the cluster does not have it.

A job that fails is restarted by Flink itself from its last checkpoint, for as long as what it needs
is away. A JobManager that was killed has forgotten the job: it is submitted again from the newest
checkpoint on disk. A job that fails again and again by a cause of its own is cancelled; one that is
given up, by us or by Flink, is not submitted again: its root cause is raised.

Which state that is says `streaming.job.restore_point`. Older states, of earlier submissions, are
removed as soon as the job has one of its own: from none of them may it be gone on.
"""

from __future__ import annotations

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
from streaming.job.record import RecordFile
from streaming.job.restore_point import RestorePoint
from streaming.job.savepoints import checkpoint_number, remove_other_states, savepoints
from streaming.job.settings import JobConfig, JobEnvironment
from streaming.job.submission import submit_in_subprocess
from streaming.statuses import Report, StreamStatus
from streaming.topic_identity import ForeignKafkaError

log = structlog.get_logger(__name__)


POLL_SECONDS = 0.5
SUBMIT_ATTEMPTS = 3
"""A cluster that is killed while it takes the job fails the submission, and is back soon after."""
UPGRADE_SECONDS = 300.0


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


class JobSupervisor:
    """Watches one job; `step` looks once."""

    def __init__(
        self,
        config: JobConfig,
        environment: JobEnvironment,
        flink: FlinkRest,
        file: RecordFile,
        committed: Callable[[], list[str]],
        submit: Callable[[JobConfig, JobEnvironment], str] = submit_in_subprocess,
        restore: str = "",
    ) -> None:
        self.config = config
        self.environment = environment
        self.flink = flink
        self._submit = submit
        self.restore_point = RestorePoint(config, environment, flink, file, committed, restore)
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
            if asked := self.restore_point.asked:
                raise StreamingError(
                    f"the job {self.config.name!r} runs already, as {job}: it is not begun from "
                    f"{asked!r}; stop it first (SIGTERM to its keeper, or Flink's own stop)"
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
            self.restore_point.completed(job, checkpoint_number(counts.latest) or 0)
        if counts.completed and not self._job.alone:
            self._job.alone = True
            if removed := remove_other_states(self.environment.checkpoints, job):
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
        try:
            restore = self.restore_point.find(before, refused=self._refused > 0)
        except KafkaUnavailable as error:
            return StreamStatus(state="waiting for Kafka", job_state="absent", problem=str(error))
        identity = self.restore_point.submission(restore, before)
        log.info("submitting the job", flink=self.environment.flink, restore=restore or None)
        try:
            job = self._submit(
                self.config, replace(self.environment, restore=restore, job_id=identity)
            )
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

    def stop_for_upgrade(self) -> str:
        """Stop the job with a savepoint, for another to go on from; empty if none was running.

        Raises:
            FlinkUnavailable: if no savepoint could be taken; the job then goes on.
        """
        running = [j for j, s in self.flink.jobs(self.config.name) if s not in FINAL_STATES]
        if not running:
            return ""
        directory = savepoints(self.environment.checkpoints)
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
                        savepoints(self.environment.checkpoints),
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
    environment: JobEnvironment,
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
        environment: where it runs.
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
    flink = FlinkRest(environment.flink, environment.tls)
    supervisor = JobSupervisor(config, environment, flink, file, committed, restore=restore)
    reported = float("-inf")
    refused = ""
    try:
        while not stop.is_set():
            if upgrade.is_set():
                upgrade.clear()
                report(StreamStatus(state="upgrading", job_state="unknown"))
                try:
                    supervisor.stop_for_upgrade()
                    return True
                except FlinkUnavailable as error:
                    refused = f"not upgraded: {error}"
                    log.warning("no upgrade; the job goes on", reason=str(error))
            seen = _checked(supervisor, check) or supervisor.step()
            if clock() - reported >= 1.0:
                reported = clock()
                report(seen.and_says(lag=lag(), refused=refused))
            stop.wait(POLL_SECONDS)
        supervisor.leave()
        report(StreamStatus(state="stopped", job_state="stopped"))
        return False
    finally:
        flink.close()


def _checked(supervisor: JobSupervisor, check: Callable[[], None]) -> StreamStatus | None:
    """Look at the topics; what to report where that has to be waited for, else None."""
    try:
        check()
    except KafkaError as error:
        if supervisor.has_job:
            return None  # the job waits for Kafka itself
        return StreamStatus(state="waiting for Kafka", job_state="absent", problem=str(error))
    except ForeignKafkaError:
        supervisor.cancel()
        raise
    return None
