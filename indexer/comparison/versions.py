"""Two versions side by side: metrics, the same events, codes that moved, items, sample answers.

Shapes: C first-level codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexer.building.build import drift_since
from indexer.building.drift import Drift
from indexer.comparison import paired_queries
from indexer.comparison.version_metrics import metrics_of
from indexer.search.query import Query
from indexer.search.retriever import Retriever
from indexer.snapshots.catalogue_changes import changes
from model.histories import History
from streaming.events import UserSequence

CODES_SHOWN = 12
EVENTS = 500


def compare(
    a: Retriever,
    b: Retriever,
    events: Sequence[UserSequence],
    samples: Sequence[History],
    k: int = 10,
) -> dict[str, Any]:
    """Everything that differs between two versions, as plain JSON values.

    Args:
        a: one version.
        b: the other; differences are b minus a.
        events: recent events, for the paired figures; none are asked where it is empty.
        samples: histories for which both answer.
        k: items of a sample answer.
    """
    changed = changes(a.snapshot, b.snapshot)
    asked = list(events)[-EVENTS:]
    return {
        "a": _facts(a),
        "b": _facts(b),
        "metrics": _metrics(a, b),
        "paired": paired_queries.compare(a, b, asked).evidence() if asked else None,
        "codes": _codes(a, b),
        "items": {
            "in_both": changed.items,
            "new": changed.new_items,
            "gone": changed.removed_items,
            "moved": changed.moved_items,
            "moved_share": changed.moved_share,
            "moves": [
                {"from": before, "to": after, "items": count}
                for before, after, count in changed.moves
            ],
            "examples": [
                {"title": title, "from": before, "to": after}
                for title, before, after in changed.examples
            ],
        },
        "samples": [_sample(a, b, history, k) for history in samples],
    }


def usual_samples(retriever: Retriever, count: int = 3) -> list[History]:
    """Histories to ask where no user is at hand: none, and the most clicked items one by one."""
    items = retriever.snapshot.model.items
    rows = items.item_rows
    order = np.argsort(-items.events_N[rows], kind="stable")[: count - 1]
    most = items.ids_N[rows[order]].tolist()
    now = retriever.event_time_ms
    return [History([], []), *(History([item], [now]) for item in most)]


def _facts(retriever: Retriever) -> dict[str, Any]:
    facts = retriever.snapshot.facts
    return {
        "version": retriever.version,
        "reason": facts.reason,
        "trained_events": facts.trained_events,
        "trained_until_ms": retriever.event_time_ms,
        "items": len(retriever.snapshot.lists),
    }


def _metrics(a: Retriever, b: Retriever) -> list[dict[str, Any]]:
    before = metrics_of(a.snapshot.facts)
    after = metrics_of(b.snapshot.facts)
    return [
        {"name": name, "a": before.get(name), "b": after.get(name)}
        for name in sorted(before.keys() | after.keys())
    ]


def drift_between(a: Retriever, b: Retriever) -> Drift | None:
    """How far each code moved from a to b; None where they have not the same shape."""
    old, new = a.snapshot.model, b.snapshot.model
    return None if old.centroids_CD.shape != new.centroids_CD.shape else drift_since(old, new)


def _codes(a: Retriever, b: Retriever) -> list[dict[str, Any]]:
    """The codes that moved most, most first; empty for codebooks of different shapes."""
    drift = drift_between(a, b)
    if drift is None:
        return []
    sizes_a: NDArray[np.int64] = a.snapshot.lists.sizes_C
    sizes_b: NDArray[np.int64] = b.snapshot.lists.sizes_C
    order = np.argsort(-drift.drift_C, kind="stable")[:CODES_SHOWN].tolist()
    return [
        {
            "code": code,
            "movement": round(float(drift.movement_C[code]), 4),
            "churn": round(float(drift.churn_C[code]), 4),
            "traffic": round(float(drift.weight_C[code]), 4),
            "items_a": int(sizes_a[code]),
            "items_b": int(sizes_b[code]),
        }
        for code in order
    ]


def _sample(a: Retriever, b: Retriever, history: History, k: int) -> dict[str, Any]:
    now = max(a.event_time_ms, b.event_time_ms, *history.times, 0)
    query = Query(history.items, history.times, now_ms=now, k=k)
    answers = [_answer(retriever, query) for retriever in (a, b)]
    both = {one["item_id"] for one in answers[0]} & {one["item_id"] for one in answers[1]}
    recent = history.items[-5:]
    titles = b.titles(recent)
    return {
        "history": [{"item_id": item, **text} for item, text in zip(recent, titles, strict=True)],
        "clicks": len(history.items),
        "a": answers[0],
        "b": answers[1],
        "in_both": len(both),
    }


def _answer(retriever: Retriever, query: Query) -> list[dict[str, Any]]:
    answer = retriever.answer(query)
    return [
        {"item_id": item, "code": code, **text}
        for item, code, text in zip(
            answer.items, answer.codes, retriever.titles(answer.items), strict=True
        )
    ]
