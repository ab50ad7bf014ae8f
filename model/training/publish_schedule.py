"""When a handover is due."""

from __future__ import annotations

from dataclasses import dataclass

from model.training.progress import Progress


@dataclass(frozen=True)
class PublishConfig:
    """When the trainer publishes; every trigger needs at least one unpublished event.

    Attributes:
        events: after so many events.
        seconds: so long after the first unpublished event.
        event_time_seconds: after so much event time (None: not by event time).
        idle_seconds: when nothing was left to train for so long.
        drift: when a share of `drift_codes` of the first-level codes moved by more than this
            part of their radius.
        drift_codes: see `drift`.
        drift_every: micro-batches between two looks at the drift.
        pause_seconds: "idle" and "drift" leave at least so long between two publications, so that
            a trickle of events does not become a flood of snapshots.
    """

    events: int = 10_000
    seconds: float = 30.0
    event_time_seconds: float | None = None
    idle_seconds: float = 2.0
    drift: float = 0.5
    drift_codes: float = 0.5
    drift_every: int = 10
    pause_seconds: float = 5.0


class Schedule:
    """Follows the clock and names the reason of a publication that is due.

    Times are seconds of a monotonic clock, given by the caller. A `repeatable` one knows no clock:
    only events, event time and drift are reasons then.
    """

    def __init__(self, config: PublishConfig, now: float, repeatable: bool = False) -> None:
        self._config = config
        self._repeatable = repeatable
        self._published = float("-inf")
        self._first_unpublished: float | None = None
        self._busy = now

    def trained(self, now: float) -> None:
        """A micro-batch was trained."""
        self._busy = now

    def published(self, now: float) -> None:
        """A handover was published."""
        self._published = now
        self._first_unpublished = None

    def due(self, progress: Progress, now: float, moved_codes: float | None) -> str | None:
        """The reason to publish now, or None.

        `moved_codes` is the share of codes beyond the drift threshold, where it was looked at.
        """
        config = self._config
        if progress.unpublished_events == 0:
            self._first_unpublished = None
            return None
        if self._first_unpublished is None:
            self._first_unpublished = now
        if progress.unpublished_events >= config.events:
            return "interval"
        if config.event_time_seconds is not None and progress.event_time_range:
            since = progress.published_event_time or progress.event_time_range[0]
            if progress.event_time_range[1] - since >= config.event_time_seconds * 1000:
                return "interval"
        drifted = moved_codes is not None and moved_codes >= config.drift_codes
        if self._repeatable:
            return "drift" if drifted else None
        if now - self._first_unpublished >= config.seconds:
            return "seconds"
        if now - self._published < config.pause_seconds:
            return None
        if drifted:
            return "drift"
        if now - self._busy >= config.idle_seconds:
            return "idle"
        return None
