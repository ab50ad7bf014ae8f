"""Parts that are down although the pipeline stays: since when, why, and when they are tried again.

supervisord restarts a part that dies, tries one that does not start five times, a little later each
time, and then gives it up; a part with an end of its own (the replay, the keeper of the job) that
refuses its work ends with code 1. While the pipeline stays, neither ends anything else: the part is
started again after a pause that doubles each time, and everybody who looks is told.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import structlog

from deploy.moment import Moment
from deploy.status import is_alive, read_status
from deploy.supervision import ProcessState, last_line

log = structlog.get_logger(__name__)

SUPERVISION = "supervision"
"""Name of the status file that they are told in."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 30.0, 600.0
WELL_SECONDS = 60.0
"""A part that runs for so long after it was started again has recovered."""
RESTARTS, RESTARTS_SECONDS = 4, 300.0
"""So many deaths of a running part within so long are worth telling."""


@dataclass(frozen=True)
class Failure:
    """One part that is down, or dies again and again.

    Attributes:
        name: of the part.
        state: "failed": it is down until it is tried again; "tried again": it was, a moment ago;
            "restarts": it starts, and dies soon after.
        why: its last words.
        log: file that holds more of them.
        since: wall clock, seconds since 1970.
        attempts: how often it failed for good.
        next_try_seconds: until it is started again, 0 unless it is down.
    """

    name: str
    state: Literal["failed", "tried again", "restarts"]
    why: str
    log: str
    since: float
    attempts: int = 0
    next_try_seconds: float = 0.0

    def sentence(self) -> str:
        """In one line, for who looks at the pipeline."""
        if self.state == "restarts":
            return f"{self.name} restarts again and again: {self.why} (log: {self.log})"
        return f"{self.name} failed: {self.why} (log: {self.log})"


def given_up(state: ProcessState) -> bool:
    """Whether supervisord leaves a part as it is, although it has not done its work."""
    # A killed part is EXITED for a moment, with another status, before it is restarted.
    refused = state.state == "EXITED" and state.one_shot and state.exit_status == 1
    return state.state == "FATAL" or refused


def failure_of(state: ProcessState, since: float = 0.0) -> Failure:
    """What there is to say of a part that was given up."""
    why = last_line(state.log) or "no output"
    return Failure(state.name, "failed", why, str(state.log), since, 1)


class Failures:
    """Follows what supervisord says, and starts again what it has given up.

    Args:
        start: starts a part by its name; may fail, then it is tried at the next look.
        clock: monotonic seconds.
        now: wall clock, seconds since 1970.
    """

    def __init__(
        self,
        start: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._start = start
        self._clock = clock
        self._now = now
        self._found: dict[str, Failure] = {}
        self._turn: dict[str, float] = {}  # when it is tried next, or was tried last
        self._pids: dict[str, int] = {}
        self._deaths: dict[str, deque[float]] = {}

    def look(self, states: Mapping[str, ProcessState]) -> list[Failure]:
        """Take the states of all parts in; returns what is down, by name."""
        for state in states.values():
            if given_up(state):
                self._down(state)
            else:
                self._up(state)
        at = self._clock()
        return [
            replace(f, next_try_seconds=round(max(0.0, self._turn[name] - at), 1))
            if f.state == "failed"
            else f
            for name, f in sorted(self._found.items())
        ]

    def _down(self, state: ProcessState) -> None:
        name, known, at = state.name, self._found.get(state.name), self._clock()
        if known is None or known.state != "failed":
            before = known if known is not None and known.state == "tried again" else None
            attempts = before.attempts + 1 if before else 1
            pause = min(FIRST_PAUSE_SECONDS * 2.0 ** (attempts - 1), LONGEST_PAUSE_SECONDS)
            failure = failure_of(state, before.since if before else self._now())
            self._found[name] = replace(failure, attempts=attempts)
            self._turn[name] = at + pause
            log.error(
                "part failed",
                part=name,
                reason=failure.why,
                log=failure.log,
                next_try_seconds=pause,
            )
        elif at >= self._turn[name]:
            self._start(name)
            self._turn[name] = at
            self._found[name] = replace(known, state="tried again")

    def _up(self, state: ProcessState) -> None:
        name, known, at = state.name, self._found.get(state.name), self._clock()
        if known is not None and known.state == "tried again":
            done = state.state == "EXITED"
            if done or (state.state == "RUNNING" and at - self._turn[name] >= WELL_SECONDS):
                del self._found[name]
                log.warning("part is back", part=name)
            return
        if not state.pid:
            return
        deaths = self._deaths.setdefault(name, deque(maxlen=RESTARTS))
        if self._pids.setdefault(name, state.pid) != state.pid:
            self._pids[name] = state.pid
            deaths.append(at)
        often = len(deaths) == RESTARTS and at - deaths[0] < RESTARTS_SECONDS
        if often and known is None:
            failure = failure_of(state, self._now())
            self._found[name] = replace(failure, state="restarts", attempts=0)
        elif known is not None and not often:
            del self._found[name]


def as_status(failures: list[Failure]) -> dict[str, Any]:
    """What the status file holds."""
    return {"failures": [asdict(one) for one in failures]}


def read_failures(data_dir: Path, now: Moment) -> dict[str, Failure]:
    """What the pipeline that runs on a data directory tells, by part; empty where none runs."""
    status = read_status(data_dir, SUPERVISION)
    if not is_alive(status, now):
        return {}
    return {one["name"]: Failure(**one) for one in status.get("failures", ())}
