"""Which failures of the job only say that something it needs is away, and which are its own.

Flink restarts the job after either. One that waits (no TaskManager has a slot, the broker does not
answer, the disk of the checkpoints is full) goes on by itself once that is there again, so it is
never given up. One that fails by its own cause (a bug, a right that is missing, a topic that was
deleted) fails again, and is given up after `Config.restart_attempts`.
"""

from __future__ import annotations

from collections.abc import Iterable

from streaming.errors import innermost_cause

AWAY = (
    # no slots, or a TaskManager that was killed
    "NoResourceAvailableException",
    "java.util.concurrent.TimeoutException",
    "jobmaster.JobMasterException",
    "netty.exception.RemoteTransportException",
    "netty.exception.LocalTransportException",
    "partition.PartitionNotFoundException",
    "partition.ProducerFailedException",
    "The TaskExecutor is shutting down",
    "Disconnect from JobManager",
    # the network, a broker, a file system
    "java.net.",
    "java.nio.channels.",
    "Connection reset",
    "Connection refused",
    "Broken pipe",
    *(
        f"kafka.common.errors.{name}Exception"
        for name in (
            "BrokerNotAvailable",
            "CoordinatorLoadInProgress",
            "CoordinatorNotAvailable",
            "Disconnect",
            "KafkaStorage",
            "LeaderNotAvailable",
            "Network",
            "NotCoordinator",
            "NotEnoughReplicas",
            "NotLeaderOrFollower",
            "Timeout",
        )
    ),
    # room for checkpoints, whose own cause is in another place
    "No space left on device",
    "Disk quota exceeded",
    "Exceeded checkpoint tolerable failure threshold",
)
"""Parts of an innermost cause. Java's own packages are whole, as each of them is about reaching
something."""
STAYS = ("not present in metadata",)
"""Parts of a cause that only looks like one of them: the timeout where a topic was deleted."""

WINDOW_MS = 300_000
"""Failures of the job's own are counted over this time."""


def is_outage(trace: str) -> bool:
    r"""Whether a stack trace says that something is away.

    >>> is_outage("FlinkException: x\nCaused by: java.net.ConnectException: Connection refused")
    True
    >>> is_outage("FlinkException: x\nCaused by: java.lang.NullPointerException")
    False
    """
    cause = innermost_cause(trace)
    return any(sign in cause for sign in AWAY) and not any(sign in cause for sign in STAYS)


class OwnFailures:
    """The failures that are the job's own, those of the five minutes before the newest.

    Flink keeps the last 16 failures of either kind, so they are gathered here as they come.
    """

    def __init__(self) -> None:
        self._own: dict[int, str] = {}
        self._newest = 0

    def add(self, failures: Iterable[tuple[int, str]]) -> None:
        """Take what Flink says: (time in ms, stack trace), in any order, known ones again."""
        for at, trace in failures:
            self._newest = max(self._newest, at)
            if not is_outage(trace):
                self._own[at] = trace
        oldest = max(self._own, default=0) - WINDOW_MS
        self._own = {at: trace for at, trace in self._own.items() if at >= oldest}

    def exceed(self, restarts: int) -> bool:
        """Whether the job just failed by its own cause, after so many restarts from such ones."""
        return len(self._own) > restarts and self._newest in self._own

    @property
    def cause(self) -> str:
        """The innermost cause of the newest one; empty without any."""
        return innermost_cause(self._own[max(self._own)]) if self._own else ""
