"""Where the service stands: `/health` over HTTP, and the report of the part."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploy.service.schema import Health
from streaming.statuses import ServiceStatus

if TYPE_CHECKING:
    from deploy.service.retrieval import RetrievalService


def health_of(service: RetrievalService) -> Health:
    """What it serves, and how far that is behind."""
    retriever = service.follower.retriever
    facts = retriever.snapshot.manifest.facts if retriever else {}
    return Health(
        live=True,
        ready=retriever is not None,
        version=retriever.version if retriever else None,
        challenger_version=service.follower.challenger,
        decided_version=service.follower.decided,
        pinned=service.follower.pinned,
        digest=retriever.snapshot.manifest.digest if retriever else None,
        codebook_generation=facts.get("codebook_generation"),
        items=len(retriever.snapshot.lists) if retriever else 0,
        appended_items=len(retriever.loaded.items) - facts.get("indexed_items", 0)
        if retriever and "indexed_items" in facts
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


def status_of(service: RetrievalService, address: str) -> ServiceStatus:
    """The same as a report, and what all workers did; `address` is where it listens."""
    health = health_of(service).model_dump()
    return ServiceStatus(
        **health | {"version": health["version"] or 0},
        address=address,
        requests=service.answered_by_all(),
        popularity_recall_at_50=service.popularity.recall,
        problem=service.follower.last_error or service.sequences.problem,
    )


def since_pointer(service: RetrievalService) -> float | None:
    """Seconds since the pointer was moved, which it says of itself by the wall clock."""
    pointer = service.follower.pointer
    return max(0.0, service.clock().wall - pointer.published_at / 1000) if pointer else None
