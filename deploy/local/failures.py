"""Parts that are down although the pipeline stays: since when, why, and when they are tried again.

supervisord restarts a part that dies, tries one that does not start five times, a little later each
time, and then gives it up; a part with an end of its own (the replay, the keeper of the job) that
refuses its work ends with code 1. While the pipeline stays, neither ends anything else: the part is
started again after a pause that doubles each time, and everybody who looks is told. A part that
starts and dies soon after, again and again, would be restarted without a pause; it is stopped here,
and is down like the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from deploy.local.supervision import ProcessState, last_line
from deploy.monitoring.part_failures import Failure

log = structlog.get_logger(__name__)

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 30.0, 600.0
"""The service waits for the first only: nothing matters more than answers."""
WELL_SECONDS = 60.0
"""A part that has run for so long is well, whatever comes then."""
SHORT_LIVES = 4
"""So many deaths in a row before it was well are no accident."""


def given_up(state: ProcessState) -> bool:
    """Whether supervisord leaves a part as it is, although it has not done its work."""
    # A killed part is EXITED for a moment, with another status, before it is restarted.
    refused = state.state == "EXITED" and state.one_shot and state.exit_status == 1
    return state.state == "FATAL" or refused


def failure_of(state: ProcessState, since: float = 0.0) -> Failure:
    """What there is to say of a part that was given up."""
    why = last_line(state.log) or "no output"
    return Failure(state.name, "failed", why, str(state.log), since, 1)


class Programs(Protocol):
    """What is asked of supervisord; what it refuses is left to the next look."""

    def start_program(self, name: str) -> None:
        """Start a program that is down."""

    def stop_program(self, name: str) -> None:
        """Stop a program until it is started."""


@dataclass
class _Life:
    """A part's process as it was last seen."""

    pid: int
    since: float
    short: int = 0
    """Deaths in a row before it was well."""


class Failures:
    """Follows what supervisord says, and starts again what is down.

    Args:
        programs: starts and stops parts by their names.
        clock: monotonic seconds.
        now: wall clock, seconds since 1970.
    """

    def __init__(
        self,
        programs: Programs,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._programs = programs
        self._clock = clock
        self._now = now
        self._found: dict[str, Failure] = {}
        self._turn: dict[str, float] = {}  # when it is tried next, or was tried last
        self._lives: dict[str, _Life] = {}

    def look(self, states: Mapping[str, ProcessState]) -> list[Failure]:
        """Take the states of all parts in; returns what is down, by name."""
        for state in states.values():
            if given_up(state) or state.state in ("STOPPING", "STOPPED"):
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
        if known is None or known.state == "tried again":
            self._lives.pop(name, None)
            attempts = known.attempts + 1 if known else 1
            longest = FIRST_PAUSE_SECONDS if name == "serve" else LONGEST_PAUSE_SECONDS
            pause = min(FIRST_PAUSE_SECONDS * 2.0 ** min(attempts - 1, 20), longest)
            failure = failure_of(state, known.since if known else self._now())
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
            self._programs.start_program(name)
            self._turn[name] = at
            self._found[name] = replace(known, state="tried again")

    def _up(self, state: ProcessState) -> None:
        name, known, at = state.name, self._found.get(state.name), self._clock()
        if known is not None and known.state == "failed":
            return  # being stopped, or just started
        life = self._lives.setdefault(name, _Life(state.pid, at))
        if state.pid not in (0, life.pid):
            short = life.short + 1 if life.pid and at - life.since < WELL_SECONDS else 0
            life = self._lives[name] = _Life(state.pid, at, short)
            if short >= (1 if known else SHORT_LIVES):
                self._programs.stop_program(name)
                self._down(state)
                return
        done = state.state == "EXITED" and state.one_shot and state.exit_status == 0
        well = state.state == "RUNNING" and at - life.since >= WELL_SECONDS
        if known is not None and (done or well):
            del self._found[name]
            log.warning("part is back", part=name)
