"""Keeps the job running: submits it, from its newest state, whenever the cluster does not have it.

A job that fails is restarted by Flink itself from its last checkpoint. A JobManager that was killed
has forgotten the job: it is submitted again from the newest checkpoint on disk. A job that Flink
gave up is not submitted again: its root cause is raised.

Only the newest state may be gone on from: the transactions of its checkpoint are committed, and an
older one would write them once more. So nothing here falls back to an older checkpoint, and those
of earlier submissions are removed as soon as the job has one of its own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import structlog

from streaming.failure import StreamingError
from streaming.flink_rest import FINAL_STATES, FlinkRest, FlinkUnavailable
from streaming.job import Config, Surroundings, to_json

log = structlog.get_logger(__name__)

Report = Callable[[dict[str, Any]], None]

SUBMIT_SECONDS = 180.0
POLL_SECONDS = 0.5


def _directory(checkpoints: str) -> Path | None:
    if not checkpoints.startswith("file:"):
        return None
    return Path(url2pathname(urlsplit(checkpoints).path))


def newest_state(checkpoints: str) -> str:
    """The newest complete checkpoint or savepoint; empty where there is none.

    `checkpoints` is a directory as a `file:` URI; of other file systems nothing is known here, and
    the operator names the state to go on from. A checkpoint is complete once its `_metadata` is
    there.
    """
    directory = _directory(checkpoints)
    if directory is None:
        return ""
    complete = [p for p in directory.rglob("_metadata") if p.stat().st_size]
    newest = max(complete, key=lambda p: p.stat().st_mtime_ns, default=None)
    return "" if newest is None else newest.parent.resolve().as_uri()


def remove_other_states(checkpoints: str, job: str) -> list[str]:
    """Remove what earlier submissions left, once `job` has a checkpoint; returns the names.

    A job that was restored leaves the state it began from as it is (NO_CLAIM), and its own first
    checkpoint depends on nothing else.
    """
    directory = _directory(checkpoints)
    if directory is None or not directory.is_dir():
        return []
    old = [d for d in directory.iterdir() if re.fullmatch("[0-9a-f]{32}", d.name) and d.name != job]
    old += (directory / "savepoints").glob("savepoint-*")
    for path in old:
        shutil.rmtree(path, ignore_errors=True)
    return sorted(path.name for path in old)


def submit_in_subprocess(config: Config, around: Surroundings) -> str:
    """Submit by `python -m streaming.job`, so that the client's JVM does not stay; the job's id.

    Raises:
        StreamingError: with the root cause.
    """
    environment = {
        # A JVM of a few seconds: quick to start, and no code is worth the second compiler.
        "JVM_ARGS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xmx512m",
        # The job has no Python workers: no loopback server, which would import Beam.
        "_python_worker_execution_mode": "process",
        **os.environ,
    }
    try:
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-m", "streaming.job"],
            env=environment,
            input=to_json(config, around),
            capture_output=True,
            text=True,
            timeout=SUBMIT_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise StreamingError(f"submitting the job took over {SUBMIT_SECONDS:.0f} s") from error
    lines = done.stdout.splitlines()
    for line in lines:
        if line.startswith("job "):
            return line.removeprefix("job ")
    said = [s.removeprefix("error: ") for s in lines if s.startswith("error: ")]
    said = said or done.stderr.strip().splitlines()[-1:] or ["it says nothing"]
    raise StreamingError(said[-1])


@dataclass
class _Job:
    identity: str
    submissions: int = 0
    alone: bool = False
    """Whether the states of earlier submissions have been removed."""


class Keeper:
    """Watches one job; `step` looks once."""

    def __init__(
        self,
        config: Config,
        around: Surroundings,
        flink: FlinkRest,
        submit: Callable[[Config, Surroundings], str] = submit_in_subprocess,
    ) -> None:
        self.config = config
        self.around = around
        self.flink = flink
        self._submit = submit
        self._job: _Job | None = None

    def step(self) -> dict[str, Any]:
        """Submit the job where it is missing; says how it is.

        Raises:
            StreamingError: if Flink refuses the job, or has given it up; with the root cause.
        """
        try:
            if not self.flink.task_managers() and self._job is None:
                return {"state": "waiting for a TaskManager", "job_state": "absent"}
            running = [(j, s) for j, s in self.flink.jobs(self.config.name)]
            alive = [(j, s) for j, s in running if s not in FINAL_STATES]
            if not alive:
                if self._job and (self._job.identity, "FAILED") in running:
                    cause = self.flink.root_cause(self._job.identity)
                    raise StreamingError(
                        f"the job failed after {self.config.restart_attempts} restarts: {cause}"
                    )
                self._begin()
                return {"state": "submitted", "job_state": "CREATED"}
            job, state = alive[0]
            if self._job is None or self._job.identity != job:
                log.info("job found", job=job, state=state)
                self._job = _Job(job, self._job.submissions if self._job else 0)
            counts = self.flink.checkpoints(job)
            restarts = self.flink.restarts(job)
        except FlinkUnavailable as error:
            return {"state": "waiting for Flink", "job_state": "unknown", "problem": str(error)}
        if counts.completed and not self._job.alone:
            self._job.alone = True
            if removed := remove_other_states(self.around.checkpoints, job):
                log.info("older states removed", names=removed)
        return {
            "state": "running" if state == "RUNNING" else "starting",
            "job": job,
            "job_state": state,
            "checkpoints": counts.completed,
            "failed_checkpoints": counts.failed,
            "latest_checkpoint": counts.latest,
            "submissions": self._job.submissions,
            "restarts": restarts,
            "problem": self.flink.root_cause(job) if state == "RESTARTING" else "",
        }

    def _begin(self) -> None:
        restore = newest_state(self.around.checkpoints)
        log.info("submitting the job", flink=self.around.flink, restore=restore or None)
        job = self._submit(self.config, replace(self.around, restore=restore))
        self._job = _Job(job, (self._job.submissions if self._job else 0) + 1)
        log.info("job submitted", job=job)

    def leave(self) -> None:
        """Stop the job so that it can go on later: with a savepoint, else by its checkpoints."""
        if self._job is None:
            return
        job = self._job.identity
        try:
            try:
                if self.flink.state(job) == "RUNNING":
                    path = self.flink.stop_with_savepoint(
                        job, f"{self.around.checkpoints}/savepoints"
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


def run(
    config: Config,
    around: Surroundings,
    stop: threading.Event,
    report: Report,
    lag: Callable[[], int | None] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Keep the job running until `stop` is set.

    Args:
        config: the job.
        around: where it runs.
        stop: ends the run; the job is stopped with a savepoint.
        report: is called about once a second.
        lag: records of `clicks` that no checkpoint covers yet, for the report.
        clock: monotonic seconds.

    Raises:
        StreamingError: with the root cause, when Flink has given the job up.
    """
    flink = FlinkRest(around.flink)
    keeper = Keeper(config, around, flink)
    reported = float("-inf")
    try:
        while not stop.is_set():
            seen = keeper.step()
            if clock() - reported >= 1.0:
                reported = clock()
                report({**seen, "lag": lag()})
            stop.wait(POLL_SECONDS)
        keeper.leave()
        report({"state": "stopped", "job_state": "stopped"})
    finally:
        flink.close()
