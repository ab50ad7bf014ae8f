from __future__ import annotations

import pytest

from streaming.job.outage import OwnFailures, is_outage

KAFKA = "org.apache.kafka.common.errors."


@pytest.mark.parametrize(
    "cause",
    [
        "org.apache.flink.runtime.jobmanager.scheduler.NoResourceAvailableException: Could not",
        "java.util.concurrent.TimeoutException: Heartbeat of TaskManager with id a timed out.",
        "org.apache.flink.runtime.jobmaster.JobMasterException: TaskManager with id a is no longer "
        "reachable.",
        "org.apache.flink.util.FlinkException: The TaskExecutor is shutting down.",
        "java.net.ConnectException: Connection refused",
        "java.io.IOException: No space left on device",
        f"{KAFKA}TimeoutException: Timed out waiting for a node assignment. Call: describeTopics",
        f"org.apache.flink.kafka.shaded.{KAFKA}DisconnectException: null",
        "org.apache.flink.util.FlinkRuntimeException: Exceeded checkpoint tolerable failure "
        "threshold. The latest checkpoint failed due to Asynchronous task checkpoint failed.",
    ],
)
def test_what_is_away_is_no_failure_of_the_job(cause: str) -> None:
    assert is_outage(
        f"X: the job failed\n\tat a.b(C.java:1)\nCaused by: {cause}\n\tat d.e(F.java:2)"
    )


@pytest.mark.parametrize(
    "cause",
    [
        "java.lang.NullPointerException: null",
        "java.lang.ClassNotFoundException: sparc.streaming.Click",
        f"{KAFKA}UnknownTopicOrPartitionException: This server does not host this topic-partition.",
        f"{KAFKA}TimeoutException: Topic sequences not present in metadata after 60000 ms.",
        f"{KAFKA}TopicAuthorizationException: Not authorized to access topics: [clicks]",
        f"{KAFKA}InvalidTxnTimeoutException: The transaction timeout is larger than the maximum",
    ],
)
def test_what_stays_is_a_failure_of_the_job(cause: str) -> None:
    # what led to it may well look like an outage
    assert not is_outage(f"java.net.ConnectException: x\n\tat a.b(C.java:1)\nCaused by: {cause}")


def test_own_failures_count_over_five_minutes_and_once_each() -> None:
    own = OwnFailures()
    own.add([(0, "java.lang.NullPointerException: first")])
    later = [(at * 1000, "java.lang.NullPointerException: later") for at in (301, 302, 303)]
    own.add(later)
    own.add(later)
    assert own.exceed(2)
    assert not own.exceed(3)
    assert own.cause == "java.lang.NullPointerException: later"
    own.add([(304_000, "java.net.ConnectException: Connection refused")])
    assert not own.exceed(2)
