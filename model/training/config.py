"""How the online trainer works."""

from __future__ import annotations

from dataclasses import dataclass, field

from model.training import publish_schedule

MOST_WORKERS = 64
"""On one machine; torchrun may start more."""


@dataclass(frozen=True)
class TrainerConfig:
    """How the trainer works.

    Attributes:
        batch_size: sequences in a full micro-batch.
        items_per_plan: at most so many new items are listed with one micro-batch.
        catch_up_from: while more sequences than this wait, they are learnt without replay and
            against fewer candidates, and fewer of them are answered first, so that what is served
            stays fresh; 0: never.
        linger_seconds: a micro-batch that does not fill up is trained after this time.
        repeatable: what is learnt together, and when a handover is due, is a function of the
            records alone, never of a clock or of how they arrive; `sparc up --drain` sets
            it. Nothing catches up then, handovers are due by events, event time and drift
            only, and the last micro-batch waits for the end of the log (`model.training.log_end`).
        publish: when handovers are due.
        checkpoint_events: a checkpoint is written at every publication, and after so many events
            or a minute without one.
        keep_checkpoints: how many to keep, for the case that the newest is damaged; if more than
            one, also the newest that shares no file with them.
        keep_handovers: how many to keep; at least as many as checkpoints, which refer to them.
        window_queries: length of the sliding window of the prequential metrics.
        source_timeout_seconds: how long the source may be away before the trainer gives up.
        quarantine_in_a_row: so many micro-batches that cannot be learnt are set aside one after the
            other; at the next one the trainer stops.
        threads: CPU threads of torch; another number gives other rounding, so a run is only
            repeatable with the same one.
        device: "cpu", "cuda", or "auto" for a GPU where there is one; of several ranks on GPUs each
            takes one, in turn.
        workers: ranks that learn together, as processes of this machine (`model.training.group`);
            under torchrun it is torchrun that says how many there are.
        collectives: "gloo", "nccl", or "auto" for NCCL where each rank has a GPU of its own: by
            what ranks add up what a GPU holds.
    """

    batch_size: int = 256
    items_per_plan: int = 10_000
    catch_up_from: int = 4096
    linger_seconds: float = 1.0
    repeatable: bool = False
    publish: publish_schedule.PublishConfig = field(default_factory=publish_schedule.PublishConfig)
    checkpoint_events: int = 20_000
    keep_checkpoints: int = 2
    keep_handovers: int = 3
    window_queries: int = 10_000
    source_timeout_seconds: float = 300.0
    quarantine_in_a_row: int = 3
    threads: int = 1
    device: str = "auto"
    workers: int = 1
    collectives: str = "auto"

    def __post_init__(self) -> None:
        for name in (
            "batch_size",
            "items_per_plan",
            "keep_checkpoints",
            "window_queries",
            "threads",
            "workers",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"trainer.{name} is {getattr(self, name)}, it must be at least 1")
        if self.workers > MOST_WORKERS:
            raise ValueError(f"trainer.workers is {self.workers}, use 1 to {MOST_WORKERS}")
        for name in ("catch_up_from", "quarantine_in_a_row"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"trainer.{name} is {getattr(self, name)}, it must not be negative"
                )
        if self.collectives not in ("auto", "gloo", "nccl"):
            raise ValueError(
                f"trainer.collectives is {self.collectives!r}; use 'auto', 'gloo' or 'nccl'"
            )
        if self.keep_handovers < self.keep_checkpoints:
            raise ValueError(
                f"trainer.keep_handovers is {self.keep_handovers}, below keep_checkpoints "
                f"({self.keep_checkpoints}): each checkpoint refers to a handover"
            )
