"""What of a replay can be set."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from replay.errors import ReplayError
from replay.synthetic import SyntheticConfig

CLIENTS = ("kafka-python", "confluent-kafka")


@dataclass(frozen=True)
class ReplayConfig:
    """Which log is replayed, and how fast.

    Without `events` and `dataset` a synthetic log is made. Without `rate` and `speedup` the log
    is replayed as fast as possible.

    Attributes:
        events: the log; any of the known formats, plain or gzipped.
        items: its catalogue; without one, the items are those of the events.
        dataset: a published log to download, such as "amazon-2014-beauty".
        rate: events per second; 0 for no limit.
        speedup: event seconds per second of real time; 0 for no limit.
        strict: stop at the first bad line instead of counting it.
        heartbeat_seconds: real time between heartbeats and between reports.
        patience_seconds: how long Kafka may take nothing before the replay gives up.
        client: what produces: "kafka-python", or "confluent-kafka" (the extra `fast`), which needs
            less processor time.
        sort_memory_mb: memory of the sort in MiB; what does not fit goes to the data directory.
        synthetic: the log that is made when none is given.
    """

    events: Path | None = None
    items: Path | None = None
    dataset: str = ""
    rate: float = 0.0
    speedup: float = 0.0
    strict: bool = False
    heartbeat_seconds: float = 1.0
    patience_seconds: float = 120.0
    client: str = CLIENTS[0]
    sort_memory_mb: int = 512
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        if self.rate < 0 or self.speedup < 0:
            raise ReplayError("rate and speedup are positive numbers, or 0 for no limit")
        if self.rate and self.speedup:
            raise ReplayError("rate and speedup exclude each other; give one of them")
        if self.dataset and (self.events or self.items):
            raise ReplayError("a dataset and files exclude each other; give --dataset or --events")
        if self.client not in CLIENTS:
            raise ReplayError(f"[replay] client is {self.client!r}: one of {CLIENTS}")
        if self.items and not self.events:
            raise ReplayError("a catalogue without a log; give the events file too")
