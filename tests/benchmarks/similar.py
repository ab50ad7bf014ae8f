"""Items like an item, asked what a user clicks next: `POST /v1/similar` against plainer answers.

    python -m tests.benchmarks.similar --snapshot data/beauty/snapshots/00000012 --events FILE

The snapshot stands still, and is asked about events that it has not learnt: the item that a user
clicked last is the trigger, what the user clicked next is to be found. All answers leave out the
items of the user's history. Give a snapshot from the middle of the log.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from indexer.search.config import SearchConfig
from indexer.search.query import Query
from indexer.search.retriever import Retriever
from model.evaluation import protocol
from model.evaluation.user_sequences import SequencesOfUsers
from model.histories import History
from streaming.events import UserSequence

K = 50
EVENTS_AHEAD = 12_000
"""Events after the snapshot among which questions are drawn."""
FEW = 5
"""Triggers with at most so many events are told apart."""


class Answerers:
    """Ways to answer, by name."""

    def __init__(self, retriever: Retriever) -> None:
        self._retriever = retriever
        self._now_ms = retriever.event_time_ms
        lists, items = retriever.snapshot.lists, retriever.snapshot.model.items
        self._ids_N = np.sort(lists.item_ids_N[lists.item_ids_N >= 0])
        vectors_ND = lists.vectors_of(self._ids_N)
        self._units_ND = vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)
        self._popular = items.ids_N[np.argsort(-items.events_N, kind="stable")]

    def answers(self, sequence: UserSequence) -> dict[str, list[int]]:
        """What each way answers, best first."""
        trigger, seen = sequence.history_items[-1], set(sequence.history_items)
        similar = self._retriever.similar
        whole = Query(sequence.history_items, sequence.history_times, self._now_ms, K)
        item = Query(sequence.history_items[-1:], None, self._now_ms, K + len(seen))
        return {
            "popular": _without(self._popular[: K + len(seen)].tolist(), seen),
            "neighbours": _without(self._neighbours(trigger), seen),
            "cosine of the places": _without(self._cosine(trigger, K + len(seen)), seen),
            "similar": _without(similar(trigger, item).items, seen),
            "similar, for the user": similar(trigger, whole).items,
            "retrieve, for the user": self._retriever.answer(whole).items,
        }

    def _neighbours(self, trigger: int) -> list[int]:
        model = self._retriever.snapshot.model
        encoded = model.encode([History([trigger], [self._now_ms])], np.array([self._now_ms]))
        return model.near(encoded)[0][0].tolist()

    def _cosine(self, trigger: int, count: int) -> list[int]:
        at = int(np.searchsorted(self._ids_N, trigger))
        best = np.argsort(-(self._units_ND @ self._units_ND[at]), kind="stable")
        return self._ids_N[best[:count]].tolist()


def _without(items: list[int], seen: set[int]) -> list[int]:
    return [item for item in items if item >= 0 and item not in seen][:K]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--snapshot", type=Path, required=True)
    parser.add_argument("--events", type=Path, required=True)
    parser.add_argument("--questions", type=int, default=1500)
    options = parser.parse_args()
    retriever = Retriever.load(options.snapshot, SearchConfig())
    events = protocol.read_events(options.events)
    learnt = int(np.searchsorted(events.times_E, retriever.event_time_ms, side="right"))
    ahead = list(SequencesOfUsers().take(events[: learnt + EVENTS_AHEAD]))[learnt:]
    ids = np.array([s.history_items[-1] if s.history_items else -1 for s in ahead])
    listed = np.flatnonzero(retriever.snapshot.lists.locate(ids)[0] >= 0)
    drawn = np.random.default_rng(0).permutation(listed)[: options.questions]
    few_B = retriever.snapshot.events_of(ids[drawn]) <= FEW
    answerers = Answerers(retriever)
    hits: dict[str, list[bool]] = {}
    for at in np.sort(drawn).tolist():
        for name, items in answerers.answers(ahead[at]).items():
            hits.setdefault(name, []).append(ahead[at].target in items)
    few_B = few_B[np.argsort(drawn)]
    print(f"version {retriever.version}, {len(drawn)} questions, {few_B.sum()} of rare items")
    for name, hit in hits.items():
        print(f"{name:24s} {np.mean(hit):.3f}  rare {np.mean(np.array(hit)[few_B]):.3f}")
    seconds = []
    for at in drawn[:300].tolist():
        query = Query(ahead[at].history_items, ahead[at].history_times)
        times = [time.perf_counter()]
        retriever.similar(int(ids[at]), Query([]))
        times.append(time.perf_counter())
        retriever.similar(int(ids[at]), query)
        times.append(time.perf_counter())
        retriever.answer(query)
        times.append(time.perf_counter())
        seconds.append(np.diff(times))
    p50, p99 = (np.percentile(seconds, q, axis=0) * 1e3 for q in (50, 99))
    for name, a, b in zip(("similar", "similar, for a user", "retrieve"), p50, p99, strict=True):
        print(f"{name:24s} {a:.2f} ms, p99 {b:.2f} ms")


if __name__ == "__main__":
    main()
