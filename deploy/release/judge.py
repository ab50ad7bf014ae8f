"""Whether a challenger may take over: both versions answer the same recent events, in pairs.

The events are those behind the offsets that the challenger was trained to, so neither version has
learnt from them; how they are asked is `indexer.comparison.paired_queries`.

A challenger is *worse* where the whole interval of challenger minus champion lies below zero; only
then is it kept. Where too few events come within the patience, it is promoted, and the reason says
so: an idle stream must not keep a pipeline from serving what it learnt.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.release.config import JudgeConfig
from indexer.comparison.paired_queries import DEPTH, compare
from indexer.search.retriever import Retriever
from streaming.events import UserSequence


@dataclass(frozen=True)
class Verdict:
    """Whether to promote, why, and by which figures."""

    promote: bool
    reason: str
    evidence: dict[str, Any]


REMEMBERED = 4_096
"""Events in memory, four times what a verdict asks."""


class RecentEvents:
    """The last sequences of users with a history, with where they lay; safe to share by threads."""

    def __init__(self, size: int = REMEMBERED) -> None:
        self._events: deque[tuple[int, int, UserSequence]] = deque(maxlen=size)
        self._lock = threading.Lock()

    def add(self, events: Sequence[tuple[int, int, UserSequence]]) -> None:
        """Take (partition, offset, sequence) in, in order of arrival."""
        with self._lock:
            self._events.extend(event for event in events if event[2].history_items)

    def forget(self, user_id: int) -> None:
        """Let go of what a user did."""
        with self._lock:
            kept = [event for event in self._events if event[2].user_id != user_id]
            self._events = deque(kept, self._events.maxlen)

    def behind(self, offsets: Mapping[int, int]) -> list[UserSequence]:
        """Those at or behind the next offsets given by partition, oldest first."""
        with self._lock:
            return [s for p, offset, s in self._events if offset >= offsets.get(p, 0)]

    def all(self) -> list[UserSequence]:
        """Every remembered one, oldest first."""
        with self._lock:
            return [s for _, _, s in self._events]


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
        behind = challenger.snapshot.facts.learnt_to(self._topic)
        events = self.recent.behind(behind)[-self.config.events :]
        if len(events) < self.config.least_events:
            if waited_seconds < self.config.patience_seconds:
                return None
            reason = (
                f"not judged: {len(events)} events that neither version has learnt from came "
                f"within {self.config.patience_seconds:g} s, {self.config.least_events} are needed"
            )
            return Verdict(True, reason, {"queries": len(events)})
        paired = compare(champion, challenger, events)
        worse = paired.high < 0
        reason = (
            f"recall@{DEPTH} {paired.recall_b:.4f} against {paired.recall_a:.4f} of version "
            f"{champion.version} on the same {paired.queries} events: "
            f"{paired.difference:+.4f} [{paired.low:+.4f}, {paired.high:+.4f}], "
            + ("worse" if worse else "not worse")
        )
        return Verdict(not worse, reason, paired.evidence())
