"""What is told of parts that are down, by who watches over them and to everybody who looks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from deploy.monitoring.moment import Moment
from deploy.monitoring.part_status import is_alive, read_status
from streaming.statuses import PartStatus

SUPERVISION = "supervision"
"""Name of the status file that they are told in."""


@dataclass(frozen=True)
class Failure:
    """One part that is down.

    Attributes:
        name: of the part.
        state: "failed": it is down until it is tried again; "tried again": it was, a moment ago.
        why: its last words.
        log: file that holds more of them.
        since: wall clock, seconds since 1970.
        attempts: how often it failed for good.
        next_try_seconds: until it is started again, 0 unless it is down.
    """

    name: str
    state: str
    why: str
    log: str
    since: float
    attempts: int = 0
    next_try_seconds: float = 0.0

    def sentence(self) -> str:
        """In one line, for who looks at the pipeline."""
        return f"{self.name} failed: {self.why} (log: {self.log})"


class SupervisionStatus(PartStatus):
    """What the pipeline tells that watches over the parts."""

    PART: ClassVar[str] = SUPERVISION

    failures: list[Failure] = []


def as_status(failures: list[Failure]) -> SupervisionStatus:
    """What the status file holds."""
    return SupervisionStatus(failures=failures)


def read_failures(data_dir: Path, now: Moment) -> dict[str, Failure]:
    """What the pipeline that runs on a data directory tells, by part; empty where none runs."""
    status = read_status(data_dir, SupervisionStatus)
    return {one.name: one for one in status.failures} if is_alive(status, now) else {}
