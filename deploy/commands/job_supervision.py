"""The part of the pipeline that keeps the streaming job running, and its upgrade from outside.

`sparc stream` runs the job's supervisor, which pages and messages call the keeper: there is one for
each data directory. Told by SIGHUP, it stops the job with a savepoint and runs itself anew, so that
code, jars and configuration are read again, and submits the job from the savepoint. `sparc stream
upgrade` sends that signal; where no keeper runs it does the same itself.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from kafka.errors import KafkaError

from deploy.commands.parts import topics_are_there
from deploy.monitoring.part_status import read_status
from deploy.settings import Settings
from streaming.errors import StreamingError
from streaming.job import supervisor
from streaming.job.accounting import Aside, StreamEnd
from streaming.job.committed_work import committed_work
from streaming.job.flink_rest import FINAL_STATES, FlinkRest, FlinkUnavailable
from streaming.job.record import NO_STATE, RecordFile
from streaming.job.submission import submit_in_subprocess
from streaming.sole_process import sole_process
from streaming.statuses import PartStatus, Report, StreamStatus
from streaming.topic_identity import TopicIdentity, recorded_cluster
from streaming.topics import keep_fitting

Say = Callable[[str], None]
LOCK = "stream.lock"
BEGIN_ANEW = "`sparc stream --restore none` for the job alone"


def keep(
    settings: Settings,
    stop: threading.Event,
    report: Report,
    upgrade: threading.Event,
    restore: str = "",
) -> bool:
    """Keep the job running; whether it ended to be run anew.

    Raises:
        ForeignKafkaError: if the topics are not those that the job's state comes from; the job
            is then cancelled.
        StreamingError: if another one does so; or with the root cause, when the job is given up.
    """
    with sole_process(settings.data_dir / LOCK) as other:
        if other:
            raise StreamingError(
                f"the keeper with pid {other} runs on {settings.data_dir} already; stop it, or "
                "choose another directory with --data-dir"
            )
        identity = job_topics(settings)
        if restore == NO_STATE:
            identity.forget()
        if not topics_are_there(settings, stop, report):
            return False
        environment = settings.job_environment()
        end = StreamEnd(
            settings.kafka_connection,
            environment.topics,
            settings.streaming.name,
            FlinkRest(environment.flink, environment.tls),
        )
        aside = Aside(settings.kafka_connection, environment.topics)
        fit = keep_fitting(
            settings.kafka_connection,
            settings.data_dir,
            environment.topics,
            settings.privacy.keep_days,
        )

        def tell(status: PartStatus) -> None:
            fit()
            report(status.and_says(**aside.counts()))

        def lag() -> int | None:
            try:
                return end.lag()
            except KafkaError:
                return None

        try:
            return supervisor.run(
                settings.streaming,
                environment,
                stop,
                tell,
                RecordFile(settings.data_dir),
                lambda: _committed(settings),
                lag,
                upgrade=upgrade,
                restore=restore,
                check=identity.check,
            )
        finally:
            aside.close()
            end.close()
            identity.close()


def job_topics(settings: Settings) -> TopicIdentity:
    """The topics that the job's state comes from, and those that hold what it has written."""
    topics = asdict(settings.kafka.topics())
    return TopicIdentity(
        settings.data_dir,
        "stream",
        settings.kafka_connection,
        {role: topics[role] for role in ("clicks", "sequences", "clicks_late", "clicks_dlq")},
        f"begin anew with --fresh ({BEGIN_ANEW})",
    )


def check_cluster(settings: Settings) -> None:
    """Before something is sent by hand: is this the Kafka of the data directory, if it has one?

    Raises:
        ForeignKafkaError: if it is another one.
        StreamingError: if Kafka does not answer.
    """
    if recorded_cluster(settings.data_dir) is None:
        return
    known = job_topics(settings)
    try:
        with settings.kafka_connection.answering():
            known.check()
    finally:
        known.close()


def _committed(settings: Settings) -> list[str]:
    return committed_work(settings.streaming, settings.kafka_connection, settings.kafka.topics())


def replace_job(settings: Settings, timeout: float, say: Say) -> dict[str, Any]:
    """Stop the job with a savepoint and start its new version from it.

    The new version is planned first, so that what cannot be planned stops nothing.

    Args:
        settings: of the new version.
        timeout: seconds until the new version has to have completed a checkpoint.
        say: told what is being done.

    Raises:
        StreamingError: with the root cause; if the job has been stopped, with what to do.
        ForeignKafkaError: if the topics are not those that the job's state comes from.
    """
    check_cluster(settings)
    environment = settings.job_environment()
    flink = FlinkRest(environment.flink, environment.tls)
    deadline = time.monotonic() + timeout
    try:
        old = _running(settings, flink)
        say("planning the new version")
        submit_in_subprocess(settings.streaming, environment, check_only=True)
        began = time.monotonic()
        with sole_process(settings.data_dir / LOCK) as other:
            if other < 0:
                raise StreamingError(
                    f"a keeper runs on {settings.data_dir}, but has not written its pid to {LOCK} "
                    "(a full disk?); try again, or restart the keeper"
                )
            if other:
                say(f"asking the keeper, pid {other}")
                os.kill(other, signal.SIGHUP)
                new = _follow(settings, flink, old, deadline)
            else:
                say("stopping the job with a savepoint")
                new = _replace_here(settings, flink, old, deadline, say)
        return {
            "old_job": old,
            "new_job": new,
            "restored_from": flink.restored_from(new),
            "parallelism": settings.streaming.parallelism,
            "seconds": round(time.monotonic() - began, 1),
        }
    finally:
        flink.close()


def _running(settings: Settings, flink: FlinkRest) -> str:
    for job, state in flink.jobs(settings.streaming.name):
        if state not in FINAL_STATES:
            return job
    raise StreamingError(
        f"no job {settings.streaming.name!r} runs at {flink.address}; `sparc stream` starts it"
    )


def _replace_here(settings: Settings, flink: FlinkRest, old: str, deadline: float, say: Say) -> str:
    environment = settings.job_environment()
    file = RecordFile(settings.data_dir)
    here = supervisor.JobSupervisor(
        settings.streaming, environment, flink, file, lambda: _committed(settings)
    )
    savepoint = here.stop_for_upgrade()
    say(f"starting the new version from {savepoint}")
    here.restore_point.ask_for(savepoint)
    try:
        while time.monotonic() < deadline:
            seen = here.step()
            if seen.job is not None and seen.job != old and seen.checkpoints:
                return seen.job
            time.sleep(0.3)
        raise StreamingError(f"it has no checkpoint yet; {seen.problem or 'see Flink'}")
    except StreamingError as error:
        raise StreamingError(
            f"the new version does not run; its state is in {savepoint}: mend what is wrong, then "
            f"run `sparc stream`, which goes on from there ({error})"
        ) from error


def _follow(settings: Settings, flink: FlinkRest, old: str, deadline: float) -> str:
    """Wait until the supervisor has replaced the job."""
    before = read_status(settings.data_dir, StreamStatus).refused
    while time.monotonic() < deadline:
        time.sleep(0.5)
        status = read_status(settings.data_dir, StreamStatus)
        if status.refused and status.refused != before:
            raise StreamingError(status.refused)
        with suppress(FlinkUnavailable):
            for job, state in flink.jobs(settings.streaming.name):
                if job == old:
                    continue
                if state in ("FAILED", "CANCELED"):
                    raise StreamingError(f"the new version failed: {flink.root_cause(job)}")
                if state == "RUNNING" and flink.checkpoints(job).completed:
                    return job
                break
    raise StreamingError(
        "the new version has no checkpoint yet; see what the keeper says: `sparc status`, and its "
        f"log ({status.problem or status.state or 'it says nothing'})"
    )
