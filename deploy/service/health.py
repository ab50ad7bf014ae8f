"""Where the service stands: `/health` over HTTP, and the report of the part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from deploy.service.schema import Health
from indexer.snapshots.snapshot_facts import SnapshotFacts
from streaming.statuses import ServiceStatus

if TYPE_CHECKING:
    from collections.abc import Callable

    from deploy.monitoring.moment import Moment
    from deploy.service.answer_log import AnswerLog
    from deploy.service.arms import ArmFollower
    from deploy.service.popularity_baseline import PopularityBaseline
    from deploy.service.sequence_follower import SequenceFollower
    from deploy.service.snapshot_follower import SnapshotFollower
    from deploy.service.together import Together
    from deploy.service.user_histories import UserHistories
    from deploy.service.work_queue import WorkQueue


class Answering(Protocol):
    """What is looked at of a `RetrievalService`."""

    follower: SnapshotFollower
    histories: UserHistories
    sequences: SequenceFollower
    popularity: PopularityBaseline
    answers: AnswerLog | None
    arms: ArmFollower
    queue: WorkQueue
    together: Together[Any, Any] | None
    shadows: WorkQueue
    clock: Callable[[], Moment]

    def answered_by_all(self) -> int:
        """Queries that all workers have answered."""

    def who_is_away(self) -> str:
        """What to say of workers that do not live."""


def health_of(service: Answering) -> Health:
    """What it serves, and how far that is behind."""
    retriever = service.follower.retriever
    facts = retriever.snapshot.facts if retriever else SnapshotFacts()
    return Health(
        live=True,
        ready=retriever is not None,
        version=retriever.version if retriever else None,
        challenger_version=service.follower.challenger,
        decided_version=service.follower.decided,
        pinned=service.follower.pinned,
        digest=retriever.snapshot.manifest.digest if retriever else None,
        codebook_generation=facts.codebook_generation,
        items=retriever.retrievable if retriever else 0,
        appended_items=len(retriever.snapshot.lists) - facts.indexed_items
        if retriever and facts.indexed_items is not None
        else 0,
        pointer_age_seconds=since_pointer(service),
        trained_until_ms=retriever.event_time_ms if retriever else None,
        latest_event_ms=service.histories.latest_event_time_ms or None,
        users=service.histories.users,
        history_lag_records=service.sequences.lag_records,
        kafka_connected=service.sequences.connected,
        kafka_problem=service.sequences.problem,
        swaps=service.follower.swaps,
        last_error=service.follower.last_error,
    )


def status_of(service: Answering, address: str) -> ServiceStatus:
    """The same as a report, and what all workers did; `address` is where it listens."""
    health = health_of(service).model_dump()
    return ServiceStatus(
        **health | {"version": health["version"] or 0},
        address=address,
        requests=service.answered_by_all(),
        popularity_recall_at_50=service.popularity.recall,
        problem=service.follower.last_error
        or service.sequences.problem
        or service.arms.problem
        or service.who_is_away(),
    )


def since_pointer(service: Answering) -> float | None:
    """Seconds since the pointer was moved, which it says of itself by the wall clock."""
    pointer = service.follower.pointer
    return max(0.0, service.clock().wall - pointer.published_at / 1000) if pointer else None
