"""A process that ends at a chosen step: every call of a component counts two steps.

One step lies before the call, one after it, so a crash at each number in turn visits every
boundary between journal, training, checkpoint, handover and pruning.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from streaming.statuses import TrainerStatus


class Crash(BaseException):
    """Stands for kill -9: nothing in the trainer catches it."""


def _crash() -> None:
    raise Crash


class Steps:
    def __init__(self, crash_at: int | None, crash: Callable[[], None] = _crash) -> None:
        self.count = 0
        self.crash_at = crash_at
        self._crash = crash
        self.statuses: list[dict[str, Any]] = []

    def report(self, status: TrainerStatus) -> None:
        self.statuses.append(status.to_json())

    def step(self) -> None:
        self.count += 1
        if self.count == self.crash_at:
            self._crash()


class Watched:
    """A component whose methods named in `methods` count steps."""

    def __init__(self, component: Any, steps: Steps, methods: set[str]) -> None:
        self._component = component
        self._steps = steps
        self._methods = methods

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._component, name)
        if name not in self._methods:
            return attribute

        def call(*args: Any, **kwargs: Any) -> Any:
            self._steps.step()
            result = attribute(*args, **kwargs)
            self._steps.step()
            return result

        return call
