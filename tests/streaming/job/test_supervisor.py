from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from kafka.errors import KafkaTimeoutError

from streaming.errors import KafkaUnavailable, StreamingError, innermost_cause
from streaming.job.flink_rest import Checkpoints, FlinkUnavailable
from streaming.job.record import RecordFile
from streaming.job.savepoints import (
    HEADER,
    MAGIC,
    local_path,
    local_uri,
    newest_state,
    remove_other_states,
)
from streaming.job.settings import JobConfig, JobEnvironment
from streaming.job.supervisor import JobSupervisor, run
from streaming.topic_identity import ForeignKafkaError

A, B = "a" * 32, "b" * 32


class Cluster:
    """A Flink cluster in memory."""

    def __init__(self):
        self.running = {}
        self.completed = 0
        self.latest = ""
        self.savepoint_elsewhere = ""
        self.up = True
        self.calls = []
        self.savepoints = True
        self.slots = 1
        self.failed = []

    def task_managers(self):
        if not self.up:
            raise FlinkUnavailable("away")
        return self.slots

    def jobs(self, name):
        return list(self.running.items())

    def state(self, job):
        return self.running.get(job, "UNKNOWN")

    def checkpoints(self, job):
        return Checkpoints(self.completed, 0, self.latest)

    def last_savepoint(self, job):
        return self.savepoint_elsewhere

    def restarts(self, job):
        return len(self.failed)

    def failures(self, job):
        return self.failed[:16]

    def fail(self, cause):
        """The job fails, and waits for its next restart."""
        self.failed.insert(
            0, (1000 * len(self.failed), f"X: job failed\nCaused by: {cause}\n\tat y")
        )
        self.running = dict.fromkeys(self.running, "RESTARTING")

    def root_cause(self, job):
        if self.failed:
            return innermost_cause(self.failed[0][1])
        return "java.lang.IllegalStateException: the disk is full"

    def cancel(self, job):
        self.calls.append(("cancel", job))

    def stop_with_savepoint(self, job, directory, timeout=8.0):
        if not self.savepoints:
            raise FlinkUnavailable("no savepoint within 8 s")
        self.calls.append(("savepoint", job, directory))
        return f"{directory}/savepoint-1"

    def close(self):
        pass


@pytest.fixture
def cluster():
    return Cluster()


@pytest.fixture
def environment(tmp_path):
    return JobEnvironment("kafka:1", "flink:1", (), local_uri(tmp_path))


@pytest.fixture
def begin(cluster, environment, tmp_path):
    """Starts a supervisor; `committed` is what Kafka holds."""
    submitted, identities, refusals, committed = [], [], [], []

    def submit(config, where):
        identities.append(where.job_id)
        if refusals:
            raise StreamingError(refusals.pop())
        job = "0123456789abcdef"[len(submitted)] * 32
        submitted.append(where.restore)
        cluster.running[job] = "RUNNING"
        return job

    def start(restore="", environment=environment):
        record = RecordFile(tmp_path.parent / f"{tmp_path.name}-data")
        supervisor = JobSupervisor(
            JobConfig(), environment, cluster, record, lambda: list(committed), submit, restore
        )
        supervisor.submitted, supervisor.identities, supervisor.refusals = (
            submitted,
            identities,
            refusals,
        )
        supervisor.committed = committed
        return supervisor

    return start


@pytest.fixture
def supervisor(begin):
    return begin()


def state(folder, number=1, age=0.0):
    folder.mkdir(parents=True)
    path = folder / "_metadata"
    path.write_bytes(HEADER.pack(MAGIC, 4, number) + b"the rest")
    os.utime(path, (1000 - age, 1000 - age))
    return folder


def test_a_missing_job_is_submitted_once(supervisor):
    assert supervisor.step().state == "submitted"
    assert supervisor.step().state == "running"
    assert supervisor.submitted == [""]


def test_a_running_job_is_adopted(supervisor, cluster):
    cluster.running["f" * 32] = "RUNNING"
    assert supervisor.step().job == "f" * 32
    assert supervisor.submitted == []


def test_a_forgotten_job_goes_on_from_its_newest_state(supervisor, cluster, tmp_path):
    supervisor.step()
    state(tmp_path / A / "chk-9", 9)
    newest = state(tmp_path / A / "chk-10", 10, age=5)  # the clock has been put back
    (tmp_path / A / "chk-11").mkdir()  # begun, not complete
    cluster.running.clear()
    supervisor.step()
    assert supervisor.submitted == ["", local_uri(newest)]


@pytest.mark.parametrize("taken", ["chk-10", "savepoint"])
def test_the_newest_state_is_the_one_of_the_highest_number_although_the_clock_was_put_back(
    supervisor, cluster, tmp_path, taken
):
    supervisor.step()
    state(tmp_path / A / "chk-9", 9)
    state(tmp_path / B / "chk-8", 8, age=-5)
    folder = tmp_path / A / "chk-10"
    if taken == "savepoint":
        folder = tmp_path / "savepoints" / "savepoint-1a2b3c-4d5e6f"
    newest = state(folder, 10, age=500)
    cluster.running.clear()
    supervisor.step()
    assert supervisor.submitted == ["", local_uri(newest)]


def test_of_two_supervisors_that_know_the_same_flink_takes_one_job(supervisor, cluster):
    supervisor.step()
    cluster.running.clear()  # forgotten before its first checkpoint
    supervisor.step()
    assert len(supervisor.identities) == 2
    assert len(set(supervisor.identities)) == 1
    assert len(supervisor.identities[0]) == 32


def test_a_job_that_goes_on_from_elsewhere_or_after_another_has_an_id_of_its_own(
    supervisor, cluster, tmp_path
):
    supervisor.step()
    cluster.running = dict.fromkeys(cluster.running, "CANCELED")
    supervisor.step()
    cluster.running.clear()
    state(tmp_path / A / "chk-1")
    supervisor.step()
    assert len(set(supervisor.identities)) == 3


def test_a_cluster_that_is_killed_while_it_takes_the_job_is_asked_again(supervisor):
    supervisor.refusals += ["connection refused"] * 2
    assert [supervisor.step().state for _ in range(3)] == ["not taken", "not taken", "submitted"]


def test_a_job_that_flink_does_not_take_is_raised_with_the_reason(supervisor):
    supervisor.refusals += ["no such topic"] * 3
    supervisor.step()
    supervisor.step()
    with pytest.raises(StreamingError, match="no such topic"):
        supervisor.step()


def test_a_state_that_was_asked_for_counts_until_the_job_has_one_of_its_own(
    begin, cluster, tmp_path
):
    state(tmp_path / A / "chk-7", 7)
    supervisor = begin("s3://elsewhere/savepoint-1")
    supervisor.step()
    cluster.running.clear()
    begin().step()  # the supervisor was killed, too
    assert supervisor.submitted == ["s3://elsewhere/savepoint-1"] * 2
    job = next(iter(cluster.running))
    own = state(tmp_path / job / "chk-3", 3)
    cluster.completed, cluster.latest = 1, local_uri(own)
    supervisor = begin()
    supervisor.step()
    cluster.running.clear()
    supervisor.step()
    assert supervisor.submitted[-1] == local_uri(own)


def test_begun_anew_it_never_goes_on_from_what_was_there_before(begin, cluster, tmp_path):
    supervisor = begin()
    supervisor.step()
    old = state(tmp_path / A / "chk-50", 50)
    cluster.running.clear()
    supervisor.committed.append("the topic 'sequences' is not empty")
    supervisor = begin("none")
    supervisor.step()
    cluster.running.clear()
    begin().step()
    assert supervisor.submitted == ["", "", ""]
    assert len(set(supervisor.identities)) == 2  # its checkpoints lie in a directory of their own
    job = next(iter(cluster.running))
    own = state(tmp_path / job / "chk-1", 1)
    cluster.completed, cluster.latest = 1, local_uri(own)
    begin().step()
    assert not old.exists()
    state(tmp_path / A / "chk-50", 50)  # as if it could not be removed
    cluster.running.clear()
    begin().step()
    assert supervisor.submitted[-1] == local_uri(own)


def test_what_the_job_did_while_no_supervisor_watched_counts_more_than_what_was_asked_for(
    begin, cluster, tmp_path
):
    old = state(tmp_path / A / "chk-50", 50)
    supervisor = begin("none")
    supervisor.step()
    own = state(tmp_path / next(iter(cluster.running)) / "chk-2", 2)
    cluster.running.clear()
    begin().step()
    assert supervisor.submitted == ["", local_uri(own)]
    assert old.exists()


def test_a_job_that_was_begun_as_asked_is_not_begun_so_again_where_nobody_can_look(
    begin, cluster, environment
):
    elsewhere = replace(environment, checkpoints="abfss://bucket/checkpoints")
    supervisor = begin("none", environment=elsewhere)
    supervisor.refusals.append("connection refused")
    assert [supervisor.step().state for _ in range(2)] == ["not taken", "submitted"]
    supervisor.committed.append("the topic 'sequences' is not empty")
    cluster.running.clear()
    for later in (supervisor, begin(environment=elsewhere)):
        with pytest.raises(StreamingError, match="abfss://bucket/checkpoints"):
            later.step()


def test_no_state_is_no_reason_to_begin_anew_once_anything_was_committed(
    supervisor, cluster, environment
):
    supervisor.committed.append("the topic 'sequences' is not empty")
    cluster.running[B] = "FINISHED"
    cluster.savepoint_elsewhere = "s3://elsewhere/savepoint-1"
    with pytest.raises(StreamingError) as refusal:
        supervisor.step()
    for part in (
        "the topic 'sequences' is not empty",
        environment.checkpoints,
        "s3://elsewhere/savepoint-1",
        "--restore URI",
        "--restore none",
        "--fresh",
    ):
        assert part in str(refusal.value)
    assert supervisor.submitted == []


def test_what_the_supervisor_remembers_is_enough_to_refuse(begin, cluster, tmp_path):
    supervisor = begin()
    supervisor.step()
    cluster.completed, cluster.latest = 1, f"file:{tmp_path}/{A}/chk-12"
    supervisor.step()
    cluster.running.clear()
    with pytest.raises(StreamingError, match="its checkpoint 12 was complete"):
        begin().step()
    older = state(tmp_path / A / "chk-11", 11)
    with pytest.raises(StreamingError, match=rf"number 11, {local_uri(older)}"):
        begin().step()
    state(tmp_path / A / "chk-12", 12)
    begin().step()
    assert supervisor.submitted[-1].endswith("chk-12")


def test_a_damaged_newest_state_is_not_replaced_by_an_older_one(supervisor, cluster, tmp_path):
    supervisor.step()
    supervisor.committed.append("the topic 'sequences' is not empty")
    cluster.running.clear()
    state(tmp_path / A / "chk-9", 9)
    (state(tmp_path / A / "chk-8", 8) / "_metadata").write_bytes(b"")  # not the newest
    assert newest_state(local_uri(tmp_path)).number == 9
    damaged = state(tmp_path / A / "chk-10", 10)
    for left in (b"", b"no checkpoint's bytes"):
        (damaged / "_metadata").write_bytes(left)
        with pytest.raises(StreamingError, match=f"{damaged} is damaged"):
            supervisor.step()
    assert supervisor.submitted == [""]


def test_while_kafka_does_not_say_what_was_committed_nothing_is_submitted(
    begin, supervisor, monkeypatch
):
    def away():
        raise KafkaUnavailable("Kafka at kafka:1 does not answer")

    monkeypatch.setattr(supervisor.restore_point, "_committed", away)
    assert supervisor.step().state == "waiting for Kafka"
    assert supervisor.submitted == []


def test_a_directory_that_cannot_be_looked_into_matters_once_something_was_committed(
    begin, environment, cluster
):
    elsewhere = replace(environment, checkpoints="abfss://bucket/checkpoints")
    supervisor = begin(environment=elsewhere)
    supervisor.step()
    cluster.running.clear()
    supervisor.committed.append("the topic 'sequences' is not empty")
    with pytest.raises(StreamingError, match=r"abfss://bucket/checkpoints.*--restore"):
        supervisor.step()


def test_a_job_that_runs_is_not_begun_from_elsewhere(begin, cluster):
    cluster.running["f" * 32] = "RUNNING"
    with pytest.raises(StreamingError, match="runs already"):
        begin("none").step()


def test_states_of_a_version_that_encoded_the_path_are_gone_on_from(begin, cluster, tmp_path):
    own = tmp_path / "my shop" / "checkpoints"
    own.mkdir(parents=True)
    earlier = state(tmp_path / "my%20shop" / "checkpoints" / A / "chk-5", 5)
    supervisor = begin(environment=JobEnvironment("kafka:1", "flink:1", (), local_uri(own)))
    supervisor.step()
    assert supervisor.submitted == [local_uri(earlier)]
    state(own / next(iter(cluster.running)) / "chk-6", 6)
    cluster.completed = 1
    supervisor.step()
    assert not earlier.exists()


def test_another_data_directory_that_is_called_so_is_left_alone(tmp_path):
    own = tmp_path / "my shop" / "checkpoints"
    state(tmp_path / "my%20shop" / "checkpoints" / A / "chk-5", 5)
    (tmp_path / "my%20shop" / "job.json").touch()
    assert newest_state(local_uri(own)) is None


@pytest.mark.parametrize("uri", ["/a b/%41", "file:/a b/%41", "file:///a b/%41"])
def test_a_local_path_is_taken_as_flink_takes_it(uri):
    assert local_path(uri) == Path("/a b/%41")
    assert local_path("s3://bucket/a") is None


def test_an_upgrade_stops_the_job_with_a_savepoint(supervisor, cluster):
    assert supervisor.stop_for_upgrade() == ""
    supervisor.step()
    assert supervisor.stop_for_upgrade().endswith("savepoints/savepoint-1")


def test_without_a_savepoint_there_is_no_upgrade(supervisor, cluster):
    supervisor.step()
    cluster.savepoints = False
    with pytest.raises(FlinkUnavailable):
        supervisor.stop_for_upgrade()
    assert cluster.calls == []


def test_while_the_job_manager_is_away_nothing_is_submitted(supervisor, cluster):
    cluster.up = False
    assert supervisor.step().state == "waiting for Flink"
    assert supervisor.submitted == []


def test_a_job_that_flink_gave_up_is_raised_with_its_root_cause(supervisor, cluster):
    supervisor.step()
    cluster.running = dict.fromkeys(cluster.running, "FAILED")
    with pytest.raises(StreamingError, match=r"the disk is full$"):
        supervisor.step()


NO_SLOT = (
    "org.apache.flink.runtime.jobmanager.scheduler.NoResourceAvailableException: Could not acquire "
    "the minimum required resources."
)
BUG = "java.lang.NullPointerException: null"


def test_waiting_for_a_slot_is_never_given_up(supervisor, cluster):
    supervisor.step()
    cluster.slots = 0
    for _ in range(100):
        cluster.fail(NO_SLOT)
        seen = supervisor.step()
    assert seen.state == "waiting for a TaskManager"
    assert seen.problem == NO_SLOT
    cluster.slots = 1
    cluster.running = dict.fromkeys(cluster.running, "RUNNING")
    assert supervisor.step().problem == NO_SLOT  # it runs, and has shown nothing yet
    cluster.completed = 1
    assert supervisor.step().problem == ""
    assert cluster.calls == []


def test_a_job_that_fails_by_its_own_cause_again_and_again_is_cancelled_with_the_cause(
    supervisor, cluster
):
    supervisor.step()
    job = next(iter(cluster.running))
    for attempt in range(10):
        cluster.fail(BUG)
        assert supervisor.step().problem == BUG, attempt
        cluster.fail(NO_SLOT)  # counts for nothing
        supervisor.step()
    cluster.fail(BUG)
    with pytest.raises(StreamingError, match="after 10 restarts: java.lang.NullPointerException"):
        supervisor.step()
    assert cluster.calls == [("cancel", job)]


def test_failures_of_long_ago_end_no_job_that_waits_now(supervisor, cluster):
    cluster.running["f" * 32] = "RUNNING"
    for _ in range(15):
        cluster.fail(BUG)
    cluster.fail(NO_SLOT)
    assert supervisor.step().problem == NO_SLOT


def test_the_states_of_earlier_submissions_go_once_the_job_has_its_own(
    supervisor, cluster, tmp_path
):
    supervisor.step()
    job = next(iter(cluster.running))
    old, own = state(tmp_path / A / "chk-1"), state(tmp_path / job / "chk-1")
    savepoint = state(tmp_path / "savepoints" / "savepoint-1")
    supervisor.step()
    assert old.exists()
    cluster.completed = 1
    supervisor.step()
    assert not old.exists()
    assert not savepoint.exists()
    assert own.exists()


def test_only_directories_of_jobs_are_removed(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / A).mkdir()
    assert remove_other_states(local_uri(tmp_path), B) == [A]
    assert (tmp_path / "notes").exists()


def test_a_file_system_that_cannot_be_looked_into_is_named():
    with pytest.raises(StreamingError, match="abfss://bucket/checkpoints"):
        newest_state("abfss://bucket/checkpoints")


def test_leaving_takes_a_savepoint(supervisor, cluster, tmp_path):
    supervisor.step()
    supervisor.leave()
    assert [call[0] for call in cluster.calls] == ["savepoint"]


def test_leaving_cancels_where_no_savepoint_can_be_had(supervisor, cluster):
    supervisor.step()
    cluster.savepoints = False
    supervisor.leave()
    assert [call[0] for call in cluster.calls] == ["cancel"]


def test_leaving_cancels_a_job_that_is_restarting(supervisor, cluster):
    supervisor.step()
    cluster.running = dict.fromkeys(cluster.running, "RESTARTING")
    supervisor.leave()
    assert [call[0] for call in cluster.calls] == ["cancel"]


def test_it_returns_when_told_to_stop(environment, tmp_path):
    stop = threading.Event()
    stop.set()
    reports = []
    run(JobConfig(), environment, stop, reports.append, RecordFile(tmp_path), list)
    assert reports[-1].state == "stopped"


def test_topics_that_are_other_ones_end_the_job(cluster, environment, monkeypatch, tmp_path):
    monkeypatch.setattr("streaming.job.supervisor.FlinkRest", lambda address, tls: cluster)
    monkeypatch.setattr("streaming.job.supervisor.POLL_SECONDS", 0.01)
    cluster.running[A] = "RUNNING"
    looks = iter([None, KafkaTimeoutError("away"), ForeignKafkaError("topic 'clicks' was deleted")])
    said = []

    def check():
        if error := next(looks):
            raise error

    with pytest.raises(ForeignKafkaError, match="clicks"):
        file = RecordFile(tmp_path)
        run(JobConfig(), environment, threading.Event(), said.append, file, list, check=check)
    assert cluster.calls == [("cancel", A)]
    assert {s.state for s in said} == {"running"}  # while Kafka is away the job waits itself


def test_before_kafka_has_said_what_its_topics_are_nothing_is_submitted(
    cluster, environment, monkeypatch, tmp_path
):
    monkeypatch.setattr("streaming.job.supervisor.FlinkRest", lambda address, tls: cluster)
    monkeypatch.setattr("streaming.job.supervisor.POLL_SECONDS", 0.01)
    stop = threading.Event()
    looks = [KafkaTimeoutError("away")] * 3
    said = []

    def check():
        if not looks:
            stop.set()
        raise looks.pop() if looks else KafkaTimeoutError("away")

    run(JobConfig(), environment, stop, said.append, RecordFile(tmp_path), list, check=check)
    assert cluster.calls == []
    assert said[0].state == "waiting for Kafka"
    assert said[0].job_state == "absent"
