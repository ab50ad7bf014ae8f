"""Item-item neighbours with recency: what users of this item also took, lately.

Every pair of items in a user's history is a link. A candidate's score is the sum over the user's
newest items of the links between the two, faded by their age, divided by a power of the item's
events and multiplied by the candidate's; a trace of faded popularity ranks what no link reaches
(Sarwar et al., WWW 2001; recency as in Ding & Li, CIKM 2005).
Shapes: L history items, P links of those items, N items of the catalogue.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from model.evaluation.online_model import Answers
from model.evaluation.protocol import Events, Queries
from model.peers.decay import DecayedCounts
from model.peers.exclusion import best
from streaming.bounds import DAY_MS
from streaming.items import Item


@dataclass(frozen=True)
class NeighboursConfig:
    """Settings of the neighbours, chosen on the tail of the warm-up.

    Attributes:
        history: newest items of a user that are linked and looked up.
        fade: days at which a link has faded to 2 ** -fade_power.
        fade_power: exponent of the fading; a power law keeps old links alive for rare items, where
            a half-life would lose them.
        gap: days between the two events at which a link starts at half weight.
        age: days after which an item of the history counts half when looked up.
        degree_half_life: days, of the faded events that `source_power` and `target_power` raise.
        source_power: exponent of the events of the looked-up item in the divisor.
        target_power: exponent of the events of the candidate in the divisor. Below 0, as here, an
            item in a burst gains.
        popularity: weight of the candidate's faded popularity.
        popularity_half_life: days.
    """

    history: int = 10
    fade: float = 2.0
    fade_power: float = 1.0
    degree_half_life: float = 7.0
    gap: float = 2000.0
    age: float = 1000.0
    source_power: float = 0.5
    target_power: float = -1.0
    popularity: float = 0.0003
    popularity_half_life: float = 2.0


class _Links:
    """The links of one item: arrays that double when they are full."""

    __slots__ = ("days_P", "others_P", "size", "weights_P")

    def __init__(self) -> None:
        self.size = 0
        self.others_P = np.empty(4, dtype=np.int32)
        self.days_P = np.empty(4, dtype=np.float32)
        self.weights_P = np.empty(4, dtype=np.float32)

    def add(self, others: np.ndarray, day: int, weights: np.ndarray) -> None:
        stop = self.size + len(others)
        while stop > len(self.others_P):
            for name in ("others_P", "days_P", "weights_P"):
                old = getattr(self, name)
                setattr(self, name, np.concatenate([old, np.empty_like(old)]))
        self.others_P[self.size : stop] = others
        self.days_P[self.size : stop] = day
        self.weights_P[self.size : stop] = weights
        self.size = stop


class Neighbours:
    """Links between items that the same users took, faded with time; updated by every event."""

    def __init__(self, items: Sequence[Item], config: NeighboursConfig) -> None:
        self._config = config
        self._ids_N = np.array([item.item_id for item in items], dtype=np.int64)
        self._links: defaultdict[int, _Links] = defaultdict(_Links)
        self._past: defaultdict[int, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        self._popularity = DecayedCounts(len(items), config.popularity_half_life)
        self._degree = DecayedCounts(len(items), config.degree_half_life)

    def warm_up(self, events: Events) -> None:
        """Link every event to what its user took before."""
        rows_E, days_E = np.searchsorted(self._ids_N, events.items_E), events.days_E
        self._popularity.add_all(rows_E, days_E)
        self._degree.add_all(rows_E, days_E)
        for user, row, day in zip(
            events.users_E.tolist(), rows_E.tolist(), days_E.tolist(), strict=True
        ):
            rows, days = self._past[user]
            if rows:
                others = np.array(rows[-self._config.history :], dtype=np.int32)
                gap_L = day - np.array(days[-self._config.history :])
                weights = (1.0 / (1.0 + gap_L / self._config.gap)).astype(np.float32)
                self._links[row].add(others, day, weights)
                for other, weight in zip(others.tolist(), weights, strict=True):
                    self._links[other].add(np.array([row]), day, weight)
            rows.append(row)
            days.append(day)

    def answer(self, queries: Queries) -> Answers:
        """Sum the links of the newest items of each history."""
        c, day = self._config, queries.day
        popularity_N = self._popularity.at(day)
        degree_N = 1.0 + self._degree.at(day)
        source_N, target_N = degree_N**-c.source_power, degree_N**-c.target_power
        scores_BN = np.empty((len(queries), len(self._ids_N)), dtype=np.float32)
        for b, history in enumerate(queries.histories):
            rows_L = np.searchsorted(self._ids_N, history.items[-c.history :])
            age_L = (queries.now_ms - np.array(history.times[-c.history :])) / DAY_MS
            source_L = 2.0 ** (-age_L / c.age) * source_N[rows_L]
            found = [
                (self._links[row], s) for row, s in zip(rows_L.tolist(), source_L, strict=True)
            ]
            others_P = np.concatenate([f.others_P[: f.size] for f, _ in found])
            weights_P = np.concatenate(
                [
                    f.weights_P[: f.size]
                    * (1.0 + (day - f.days_P[: f.size]) / c.fade) ** -c.fade_power
                    * s
                    for f, s in found
                ]
            )
            links_N = np.bincount(others_P, weights=weights_P, minlength=len(self._ids_N))
            scores_BN[b] = links_N * target_N + c.popularity * popularity_N
        return best(self._ids_N, scores_BN, queries.histories)

    def learn(self, events: Events) -> int:
        """Link the events of the day; nothing is replayed."""
        self.warm_up(events)
        return 0

    def facts(self) -> dict[str, Any]:
        """The settings."""
        return asdict(self._config)
