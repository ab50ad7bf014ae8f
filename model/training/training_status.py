"""The trainer's status: what `sparc status` and `--drain` look at."""

from __future__ import annotations

from collections import deque

from model.training.backlog import Backlog
from model.training.training_state import TrainingState
from streaming.statuses import TrainerStatus

REPORT_SECONDS = 1.0
RATE_SECONDS = 10.0
TOLD = {"sequence", "reason", "offsets", "trained_events", "micro_batches"}


class Status:
    """Puts the status together, about once a second, with the rate of the last ten seconds.

    `state` is one of "recovering", "training", "catching up", "idle", "waiting for the
    source", "stopped".
    """

    def __init__(self) -> None:
        self.state = "recovering"
        self._reported = float("-inf")
        self._rate: deque[tuple[float, int]] = deque()

    def is_due(self, now: float) -> bool:
        """Whether the last report is old."""
        return now - self._reported >= REPORT_SECONDS

    def describe(self, now: float, state: TrainingState, backlog: Backlog | None) -> TrainerStatus:
        """The status; `backlog` is None before the trainer follows its source.

        `caught_up` says that everything that could be read is trained and published.
        """
        self._reported = now
        progress = state.progress
        self._rate.append((now, progress.trained_events))
        while now - self._rate[0][0] > RATE_SECONDS:
            self._rate.popleft()
        seconds = now - self._rate[0][0]
        events = progress.trained_events - self._rate[0][1]
        metrics = state.prequential.metrics()
        return TrainerStatus(
            state=self.state,
            trained_events=progress.trained_events,
            sequences_read=progress.sequences_read,
            micro_batches=progress.micro_batches,
            repeated=progress.repeated,
            poison=progress.poison,
            quarantined=progress.quarantined,
            quarantined_batches=progress.quarantined_batches,
            last_quarantine=progress.last_quarantine,
            items_listed=progress.items_listed,
            unlisted_targets=progress.unlisted_targets,
            lag=None if backlog is None else backlog.lag(),
            offsets=progress.offsets_json(),
            handovers=progress.handovers,
            last_handover=progress.handover.model_dump(include=TOLD, exclude_unset=True)
            if progress.handover
            else {},
            unpublished_events=progress.unpublished_events,
            event_time=progress.event_time_range[1] if progress.event_time_range else None,
            queries=int(metrics["queries"]),
            recall_at_50=metrics.get("recall_at_50"),
            ndcg_at_50=metrics.get("ndcg_at_50"),
            prequential=metrics,
            codebook=state.health,
            losses=state.losses,
            events_per_second=round(events / seconds, 1) if seconds > 0 else 0.0,
            caught_up=backlog is not None
            and not backlog
            and backlog.exhausted()
            and progress.unpublished_events == 0,
        )
