"""Exploration: places of an answer that are reserved for what its ranking would not show.

A system that learns from its own answers never hears of what it does not show. So the last places
of an answer can be reserved: some for items of codes that the user has never touched, some for
items that were listed a short while ago. Such a place is drawn: first a code by p(c|u), among those
that have an eligible item, then one of its eligible items, all alike. The probability of the draw
is part of the answer (its propensity, given the places before), so that another policy can be
evaluated from the log later (inverse propensity scoring; Horvitz and Thompson, JASA 1952).

The draw depends on the query alone (history and time) and on what the version holds, so the same
question has the same answer wherever it is asked, and an evaluation can be repeated. Over users
and times it is as good as random.

Shapes: B queries, K places of an answer, R reserved places, C codes, N items in the lists.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from indexer.lists.code_lists import CodeLists
from indexer.search.answers import Answers
from indexer.search.code_choice import EncodedQueries, Queries
from indexer.search.config import ExplorationConfig
from indexer.search.selection import Selection
from streaming.bounds import DAY_MS

if TYPE_CHECKING:  # torch is needed by the model only
    from model.histories import History


@dataclass(frozen=True)
class Drawn:
    """What was drawn for B queries, one column per reserved place, -1 where nothing was eligible.

    Attributes:
        positions_BR: int64 positions in the lists.
        propensities_BR: float32 probability of each draw, given those before it; 1 at -1.
    """

    positions_BR: NDArray[np.int64]
    propensities_BR: NDArray[np.float32]


class ReservedPlaces:
    """Draws for the reserved places of answers; safe to share by threads.

    Args:
        lists: what may be drawn.
        config: what is reserved.
        listed_ms_N: int64 (N,), when each position was first listed; None: unknown, so that no
            item is young.
        clock: wall clock in seconds.
    """

    def __init__(
        self,
        lists: CodeLists,
        config: ExplorationConfig,
        listed_ms_N: NDArray[np.int64] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._lists = lists
        self._config = config
        self._clock = clock
        self._young_N = self._listed_N = np.empty(0, np.int64)
        if config.young and listed_ms_N is not None:
            order = np.argsort(listed_ms_N, kind="stable")
            self._young_N = order[lists.item_ids_N[order] >= 0]
            self._listed_N = listed_ms_N[self._young_N]

    def places(self, k: int) -> int:
        """How many of k places are reserved."""
        return sum(self._config.places(k))

    def fill(
        self, answers: Answers, positions_BK: NDArray[np.int64], encoded: EncodedQueries
    ) -> None:
        """Draw the last places of ranked answers, in place.

        What is drawn has no rank, so it carries the score of the last item that has one. Where
        nothing was eligible, what is ranked next takes the place. An answer that is short has no
        reserved places: it holds the catalogue already.

        Args:
            answers: as ranked.
            positions_BK: where in the lists the ranked items are, -1 at padding.
            encoded: the queries.
        """
        log_p_BC, excluded = encoded.log_p_BC, encoded.excluded
        kept, lists = encoded.queries.k - self.places(encoded.queries.k), self._lists
        taken = [
            np.unique(np.concatenate([positions_BK[b, :kept], excluded.of_query(b)]))
            for b in range(len(encoded.queries))
        ]
        drawn = self.draw(encoded.queries, log_p_BC, taken)
        there_BR = (drawn.positions_BR >= 0) & (answers.items_BK[:, -1:] >= 0)
        for b in np.flatnonzero(there_BR.any(axis=1)).tolist():
            there_R = there_BR[b]
            positions = drawn.positions_BR[b, there_R]
            same = positions_BK[b, kept:, None] == positions
            ranked = kept + np.flatnonzero(~same.any(axis=1))
            ranked = ranked[: np.count_nonzero(~there_R)]
            first = kept + len(ranked)
            answers.items_BK[b, kept:first] = answers.items_BK[b, ranked]
            answers.scores_BK[b, kept:first] = answers.scores_BK[b, ranked]
            answers.item_codes_BK[b, kept:first] = answers.item_codes_BK[b, ranked]
            log_p_K = answers.item_log_probabilities_BK[b]
            log_p_K[kept:first] = log_p_K[ranked]
            codes = lists.codes_at(positions)
            answers.items_BK[b, first:] = lists.item_ids_N[positions]
            answers.scores_BK[b, first:] = answers.scores_BK[b, first - 1] if first else 0.0
            answers.item_codes_BK[b, first:] = codes
            log_p_K[first:] = log_p_BC[b, codes]
            answers.propensities_BK[b, first:] = drawn.propensities_BR[b, there_R]

    def draw(
        self,
        queries: Queries,
        log_p_BC: NDArray[np.float32],
        taken: Sequence[NDArray[np.int64]],
    ) -> Drawn:
        """Draw the reserved places of answers.

        Args:
            queries: B of them.
            log_p_BC: log p(c|u).
            taken: for each query the distinct positions that must not be drawn, ascending.
        """
        pool = _Pool.of(self._lists, queries.only)
        untouched, young = self._config.places(queries.k)
        positions_BR = np.full((len(queries), untouched + young), -1, np.int64)
        propensities_BR = np.ones(positions_BR.shape, np.float32)
        young_by_code = self._young(queries.only) if young else []
        p_BC = np.exp(log_p_BC.astype(np.float64))
        p_new_BC = self._of_untouched(p_BC, queries.histories)
        for b, history in enumerate(queries.histories):
            dice = _dice(history, int(queries.now_ms_B[b]), untouched + young)
            out, p_C, p_new_C = taken[b], p_BC[b], p_new_BC[b]
            for r in range(untouched + young):
                if r < untouched:
                    found = pool.draw(p_new_C, out, dice[r])
                else:
                    found = self._from_young(p_C, young_by_code, out, dice[r])
                if found is None:
                    continue
                positions_BR[b, r], propensities_BR[b, r] = found
                if r + 1 < untouched + young:
                    out = np.insert(out, np.searchsorted(out, found[0]), found[0])
        return Drawn(positions_BR, propensities_BR)

    def _of_untouched(
        self, p_BC: NDArray[np.float64], histories: Sequence[History]
    ) -> NDArray[np.float64]:
        """The probabilities of codes that no item of the history has, 0 for the others."""
        lengths_B = [len(history.items) for history in histories]
        items = np.fromiter((i for h in histories for i in h.items), np.int64, sum(lengths_B))
        codes, _ = self._lists.locate(items)
        p_BC = p_BC.copy()
        there = codes >= 0
        p_BC[np.repeat(np.arange(len(histories)), lengths_B)[there], codes[there]] = 0.0
        return p_BC

    def _young(self, only: Selection | None) -> list[NDArray[np.int64]]:
        """For each code the positions of its young items that may answer, ascending."""
        oldest = int(self._clock() * 1000 - self._config.young_days * DAY_MS)
        young = np.sort(self._young_N[np.searchsorted(self._listed_N, oldest) :])
        if only is not None:
            young = young[only.has(young)]
        return np.split(young, np.searchsorted(young, self._lists.starts_C[1:]))

    def _from_young(
        self,
        weights_C: NDArray[np.float64],
        young_by_code: Sequence[NDArray[np.int64]],
        taken: NDArray[np.int64],
        dice: NDArray[np.float64],
    ) -> tuple[int, float] | None:
        left = [np.setdiff1d(young, taken, assume_unique=True) for young in young_by_code]
        chosen = _choose(weights_C * np.array([len(one) > 0 for one in left]), dice[0])
        if chosen is None:
            return None
        code, p = chosen
        eligible = left[code]
        return int(eligible[min(int(dice[1] * len(eligible)), len(eligible) - 1)]), p / len(
            eligible
        )


@dataclass(frozen=True)
class _Pool:
    """What may be drawn, code by code: places in a row of all items that may answer.

    Attributes:
        starts_C: the first place of each code.
        lengths_C: how many places it has.
        sizes_C: how many of them hold an item.
        lists: whose rows the places are, or
        only: whose positions they are.
    """

    starts_C: NDArray[np.int64]
    lengths_C: NDArray[np.int64]
    sizes_C: NDArray[np.int64]
    lists: CodeLists
    only: Selection | None

    @classmethod
    def of(cls, lists: CodeLists, only: Selection | None) -> _Pool:
        if only is None:
            return cls(lists.starts_C, lists.lengths_C, lists.sizes_C, lists, None)
        return cls(only.starts_C, only.sizes_C, only.sizes_C, lists, only)

    def draw(
        self, weights_C: NDArray[np.float64], taken: NDArray[np.int64], dice: NDArray[np.float64]
    ) -> tuple[int, float] | None:
        """A position that is not taken, and its probability; None where there is none.

        Args:
            weights_C: of the codes.
            taken: positions, ascending.
            dice: two numbers.
        """
        if self.only is not None:
            taken = taken[self.only.has(taken)].astype(np.int32)  # or all would be widened
            taken = np.searchsorted(self.only.positions_p, taken)
        first_C = np.searchsorted(taken, self.starts_C)
        taken_C = np.searchsorted(taken, self.starts_C + self.lengths_C) - first_C
        chosen = _choose(np.where(self.sizes_C > taken_C, weights_C, 0.0), dice[0])
        if chosen is None:
            return None
        code, p = chosen
        left = int(self.sizes_C[code] - taken_C[code])
        start, first = int(self.starts_C[code]), int(first_C[code])
        out = taken[first : first + taken_C[code]]
        if self.only is None:
            out = np.sort(np.concatenate([out, start + self.lists.lists[code].removed]))
        at = min(int(dice[1] * left), left - 1)
        # out[n] - n places before it may be drawn: as many as are out come before the drawn one
        at += int(np.searchsorted(out - start - np.arange(len(out)), at, side="right"))
        place = start + at
        return place if self.only is None else int(self.only.positions_p[place]), p / left


def _choose(weights_C: NDArray[np.float64], dice: float) -> tuple[int, float] | None:
    """A code by its weight and the probability of that; None where no code has any."""
    sums_C = np.cumsum(weights_C)
    if not sums_C[-1] > 0:
        return None
    code = int(np.searchsorted(sums_C, dice * sums_C[-1], side="right"))
    code = min(code, int(np.flatnonzero(weights_C)[-1]))
    return code, float(weights_C[code] / sums_C[-1])


def _dice(history: History, now_ms: int, places: int) -> NDArray[np.float64]:
    """Two numbers in [0, 1) for each place, from a digest of the query."""
    asked = np.array([now_ms, *history.items], np.int64).tobytes()
    seed = int.from_bytes(blake2b(asked, digest_size=16).digest(), "little")
    return np.random.Generator(np.random.PCG64(seed)).random((places, 2))
