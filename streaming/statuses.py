"""What each part of the pipeline says of itself: the contract between the parts and who watches.

A part fills in what it knows and reports it about once a second; what it leaves out it has not
said. The names are those of the JSON that people read (`sparc status --json`, `status/*.json`).

A reader who meets another version says so, and goes on with what it knows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

from streaming.versioned import Versioned


class PartStatus(Versioned):
    """What every part may say.

    Attributes:
        part: its name.
        pid: of its process.
        updated_at: seconds since 1970, for people.
        clock: when that was by the clocks of its machine; ages are measured by it.
        state: what it does, in words.
        problem: what troubles it, empty if nothing does.
        caught_up: everything that could be read is worked off.
    """

    PART: ClassVar[str] = ""

    part: str = ""
    pid: int = 0
    updated_at: float = 0.0
    clock: dict[str, Any] | None = None
    state: str = ""
    problem: str | None = None
    caught_up: bool = False

    def and_says(self, **more: Any) -> Self:
        """The same, with more said, or something else."""
        return self.model_copy(update=more)

    @property
    def said_anything(self) -> bool:
        """Whether the part ever reported."""
        return bool(self.model_fields_set)

    @property
    def other_version(self) -> str:
        """What is to be done about a report of another version, in words; empty if it is ours."""
        if not self.clock or self.schema_version == self.VERSION:
            return ""
        age = "an older" if self.schema_version < self.VERSION else "a newer"
        return f"written by {age} version; restart that part"


class ReplayStatus(PartStatus):
    """How far the replay is; see `replay.replay.Replay`."""

    PART: ClassVar[str] = "replay"

    done: bool = False
    events_read: int | None = None
    events_total: int | None = None
    bad_lines: int | None = None
    first_bad_lines: list[str] = []
    items_total: int | None = None
    items_announced: int | None = None
    clicks_produced: int | None = None
    simulated_time_ms: int | None = None
    file: str | None = None
    bytes: int | None = None
    of_bytes: int | None = None


class StreamStatus(PartStatus):
    """How the Flink job is; see `streaming.job.supervisor`."""

    PART: ClassVar[str] = "stream"

    job: str | None = None
    job_state: str | None = None
    checkpoints: int | None = None
    failed_checkpoints: int | None = None
    latest_checkpoint: str | None = None
    submissions: int | None = None
    restarts: int | None = None
    lag: int | None = None
    refused: str = ""
    late: int | None = None
    dead_letters: int | None = None


class TrainerStatus(PartStatus):
    """How far the trainer is, and how well it does; see `model.training`."""

    PART: ClassVar[str] = "train"

    trained_events: int | None = None
    sequences_read: int | None = None
    micro_batches: int | None = None
    repeated: int | None = None
    poison: int | None = None
    quarantined: int | None = None
    quarantined_batches: int | None = None
    last_quarantine: dict[str, Any] | None = None
    items_listed: int | None = None
    unlisted_targets: int | None = None
    lag: int | None = None
    offsets: dict[str, Any] | None = None
    handovers: int | None = None
    last_handover: dict[str, Any] = {}
    unpublished_events: int | None = None
    event_time: int | None = None
    queries: int | None = None
    recall_at_50: float | None = None
    ndcg_at_50: float | None = None
    prequential: Mapping[str, float | None] = {}
    codebook: Mapping[str, float | None] = {}
    losses: Mapping[str, float | None] = {}
    events_per_second: float | None = None


class IndexerStatus(PartStatus):
    """What the indexer has built, and what waits; see `indexer.indexing`."""

    PART: ClassVar[str] = "index"

    version: int | None = None
    handover: int | None = None
    handover_offsets: dict[str, Any] | None = None
    catalogue_items: int | None = None
    indexed_items: int | None = None
    waiting_items: int | None = None
    withdrawn_items: int | None = None
    hidden_items: int | None = None
    appended_items: int | None = None
    pending_handovers: int | None = None
    rebuilt_codes: int | None = None
    shared_codes: int | None = None
    drift: dict[str, Any] | None = None
    rebuild_reasons: dict[str, int] = {}
    moved_items: int | None = None
    deferred_codes: int | None = None
    codebook_health: dict[str, Any] | None = None
    codes: int | None = None
    codes_in_use: int | None = None
    last_refusal: str | None = None
    snapshots_published: int | None = None
    handovers_refused: int | None = None
    handovers_skipped: int | None = None
    items_refused: int | None = None
    items_lag: int | None = None


class RegistrarStatus(PartStatus):
    """What is registered, and what waits; see `deploy.registry.registrar`."""

    PART: ClassVar[str] = "register"

    registered_versions: int | None = None
    last_registered: int | None = None
    champion_version: int | None = None
    aliases: dict[str, int] = {}
    pending: int | None = None
    refused: int | None = None
    unannounced: int | None = None
    reachable: bool | None = None
    last_error: str = ""


class ServiceStatus(PartStatus):
    """What is served, and from when: `deploy.service.schema.Health`, and a little more."""

    PART: ClassVar[str] = "serve"

    ready: bool = False
    version: int | None = None
    decided_version: int | None = None
    pointer_age_seconds: float | None = None
    trained_until_ms: int | None = None
    latest_event_ms: int | None = None
    users: int | None = None
    history_lag_records: int | None = None
    kafka_problem: str = ""
    swaps: int | None = None
    address: str | None = None
    requests: int | None = None
    popularity_recall_at_50: float | None = None


Report = Callable[[PartStatus], None]
"""Takes what a part says of itself."""
