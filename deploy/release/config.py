"""How a newer version is judged before it takes over."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class JudgeConfig:
    """How a challenger is judged.

    Attributes:
        enabled: False promotes every version as soon as it is built.
        events: at most so many recent events are asked.
        least_events: fewer than this are no evidence.
        patience_seconds: how long to wait for events, and no longer.
    """

    enabled: bool = True
    events: int = 1_000
    least_events: int = 200
    patience_seconds: float = 5.0
