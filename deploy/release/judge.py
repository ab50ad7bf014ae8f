"""Whether a challenger may take over: both versions answer the same recent events, in pairs.

The events are those behind the offsets that the challenger was trained to, so neither version has
learnt from them. Each is a query with its true answer: the item that the user clicked next. The
measure is Recall@50 (NDCG@50 is noted beside it), the interval is the normal one of the mean
paired difference with the users as clusters, because a user's clicks are not independent (A. C.
Cameron, D. L. Miller, "A Practitioner's Guide to Cluster-Robust Inference", 2015).

A challenger is *worse* where the whole interval of challenger minus champion lies below zero; only
then is it kept. Where too few events come within the patience, it is promoted, and the reason says
so: an idle stream must not keep a pipeline from serving what it learnt.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deploy.release.config import JudgeConfig
from model.histories import History
from streaming.events import UserSequence

if TYPE_CHECKING:  # the settings need `Config` alone
    from indexer.search.retriever import Retriever

DEPTH = 50


@dataclass(frozen=True)
class Paired:
    """A paired comparison of two versions on the same queries; differences are b minus a.

    Attributes:
        queries: events asked.
        users: distinct users among them.
        recall_a: Recall@50 of the first version.
        recall_b: Recall@50 of the second.
        ndcg_a: NDCG@50 of the first version.
        ndcg_b: NDCG@50 of the second.
        difference: recall_b - recall_a.
        low: lower end of its interval.
        high: upper end of its interval.
    """

    queries: int
    users: int
    recall_a: float
    recall_b: float
    ndcg_a: float
    ndcg_b: float
    difference: float
    low: float
    high: float

    def evidence(self) -> dict[str, Any]:
        """Plain numbers, rounded."""
        return {
            name: value if isinstance(value, int) else round(value, 6)
            for name, value in asdict(self).items()
        }


@dataclass(frozen=True)
class Verdict:
    """Whether to promote, why, and by which figures."""

    promote: bool
    reason: str
    evidence: dict[str, Any]


class RecentEvents:
    """The last sequences of users with a history, with where they lay; safe to share by threads."""

    def __init__(self, size: int) -> None:
        self._events: deque[tuple[int, int, UserSequence]] = deque(maxlen=size)
        self._lock = threading.Lock()

    def add(self, events: Sequence[tuple[int, int, UserSequence]]) -> None:
        """Take (partition, offset, sequence) in, in order of arrival."""
        with self._lock:
            self._events.extend(event for event in events if event[2].history_items)

    def behind(self, offsets: Mapping[int, int]) -> list[UserSequence]:
        """Those at or behind the next offsets given by partition, oldest first."""
        with self._lock:
            return [s for p, offset, s in self._events if offset >= offsets.get(p, 0)]

    def all(self) -> list[UserSequence]:
        """Every remembered one, oldest first."""
        with self._lock:
            return [s for _, _, s in self._events]


def trained_to(facts: Mapping[str, Any], topic: str) -> dict[int, int]:
    """Partition -> next offset of the sequences that a snapshot did not learn from."""
    offsets = facts.get("offsets") or {}
    return {int(p): int(o) for p, o in (offsets.get(topic) or {}).items()}


class Judge:
    """Judges challengers by the recent events of the topic `topic`."""

    def __init__(self, config: JudgeConfig, recent: RecentEvents, topic: str) -> None:
        self.config = config
        self.recent = recent
        self._topic = topic

    def verdict(
        self, champion: Retriever, challenger: Retriever, waited_seconds: float
    ) -> Verdict | None:
        """What to do with a challenger; None while there is not enough to judge by."""
        if not self.config.enabled:
            return Verdict(True, "judging is turned off", {})
        behind = trained_to(challenger.snapshot.manifest.facts, self._topic)
        events = self.recent.behind(behind)[-self.config.events :]
        if len(events) < self.config.least_events:
            if waited_seconds < self.config.patience_seconds:
                return None
            reason = (
                f"not judged: {len(events)} events that neither version has learnt from came "
                f"within {self.config.patience_seconds:g} s, {self.config.least_events} are needed"
            )
            return Verdict(True, reason, {"queries": len(events)})
        paired = compare(champion, challenger, events, self.config.confidence)
        worse = paired.high < 0
        reason = (
            f"recall@{DEPTH} {paired.recall_b:.4f} against {paired.recall_a:.4f} of version "
            f"{champion.version} on the same {paired.queries} events: "
            f"{paired.difference:+.4f} [{paired.low:+.4f}, {paired.high:+.4f}], "
            + ("worse" if worse else "not worse")
        )
        return Verdict(not worse, reason, paired.evidence())


def compare(
    a: Retriever, b: Retriever, events: Sequence[UserSequence], confidence: float = 0.95
) -> Paired:
    """Ask two versions the same events, each as of its time; there must be at least one."""
    gains_a, gains_b = gains(a, events), gains(b, events)
    users = np.array([s.user_id for s in events], np.int64)
    difference, low, high = interval(gains_b[:, 0] - gains_a[:, 0], users, confidence)
    recall_a, ndcg_a = gains_a.mean(axis=0).tolist()
    recall_b, ndcg_b = gains_b.mean(axis=0).tolist()
    count = len(np.unique(users))
    return Paired(len(events), count, recall_a, recall_b, ndcg_a, ndcg_b, difference, low, high)


def gains(state: Retriever, events: Sequence[UserSequence]) -> NDArray[np.float64]:
    """Recall@50 and NDCG@50 of each event: float64 (events, 2)."""
    items = state.items_for(
        [History(s.history_items, s.history_times) for s in events],
        np.array([s.event_time for s in events], np.int64),
        DEPTH,
    )
    targets = np.array([s.target for s in events], np.int64)
    hits = items == targets[:, None]
    found = hits.any(axis=1)
    ranks = np.where(found, hits.argmax(axis=1) + 1, 1)
    return np.stack([found, found / np.log2(ranks + 1.0)], axis=1).astype(np.float64)


def interval(
    differences: NDArray[np.float64], clusters: NDArray[np.int64], confidence: float
) -> tuple[float, float, float]:
    """Mean of paired differences and its normal interval with clustered variance.

    >>> interval(np.array([1.0, 1.0, 0.0, 0.0]), np.array([1, 1, 2, 2]), 0.95)[0]
    0.5
    """
    n = len(differences)
    mean = float(differences.mean())
    groups, place = np.unique(clusters, return_inverse=True)
    sums = np.bincount(place, differences - mean, len(groups))
    m = len(groups)
    if m < 2:
        return mean, float("-inf"), float("inf")
    deviation = float(np.sqrt((sums**2).sum() * m / (m - 1))) / n
    from scipy.stats import norm  # a quarter of a second, and only where something is judged

    half = float(norm.ppf(0.5 + confidence / 2)) * deviation
    return mean, mean - half, mean + half
