"""The places of an answer that are reserved for exploration, filled with what was drawn for them.

Shapes: B queries, K places of an answer, R reserved places.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from indexer.lists.code_lists import CodeLists
from indexer.search.answers import Answers
from indexer.search.code_choice import Excluded
from indexer.search.exploration import ExplorationConfig, Reserve

if TYPE_CHECKING:  # torch is needed by the model only
    from model.histories import History


class ReservedPlaces:
    """Fills the reserved places of answers; safe to share by threads.

    Args:
        lists: what may be drawn.
        config: what is reserved.
        listed_ms_N: int64 (N,), when each position was first listed; None: unknown.
    """

    def __init__(
        self, lists: CodeLists, config: ExplorationConfig, listed_ms_N: NDArray[np.int64] | None
    ) -> None:
        self._lists = lists
        self._config = config
        self._reserve = Reserve(lists, config, listed_ms_N)

    def places(self, k: int) -> int:
        """How many of k places are reserved."""
        return sum(self._config.places(k))

    def fill(
        self,
        answers: Answers,
        positions_BK: NDArray[np.int64],
        log_p_BC: NDArray[np.float32],
        gone: Excluded,
        histories: Sequence[History],
        now_ms: NDArray[np.int64],
    ) -> None:
        """Draw the last places of ranked answers, in place.

        What is drawn has no rank, so it carries the score of the last item that has one. Where
        nothing was eligible, what is ranked next takes the place. An answer that is short has no
        reserved places: it holds the catalogue already.

        Args:
            answers: as ranked.
            positions_BK: where in the lists the ranked items are, -1 at padding.
            log_p_BC: log p(c|u).
            gone: the unwanted items, by query.
            histories: B histories.
            now_ms: (B,) time of each query.
        """
        k = answers.items_BK.shape[1]
        kept, lists = k - self.places(k), self._lists
        bounds = np.searchsorted(gone.query, np.arange(len(histories) + 1))
        unwanted = lists.starts_C[gone.code] + gone.row
        taken = [
            np.unique(np.concatenate([positions_BK[b, :kept], unwanted[bounds[b] : bounds[b + 1]]]))
            for b in range(len(histories))
        ]
        drawn = self._reserve.draw(histories, now_ms, log_p_BC, taken, k)
        there_BR = (drawn.positions_BR >= 0) & (answers.items_BK[:, -1:] >= 0)
        for b in np.flatnonzero(there_BR.any(axis=1)).tolist():
            there_R = there_BR[b]
            positions = drawn.positions_BR[b, there_R]
            ranked = kept + np.flatnonzero(~np.isin(positions_BK[b, kept:], positions))
            ranked = ranked[: np.count_nonzero(~there_R)]
            first = kept + len(ranked)
            answers.items_BK[b, kept:first] = answers.items_BK[b, ranked]
            answers.scores_BK[b, kept:first] = answers.scores_BK[b, ranked]
            answers.item_codes_BK[b, kept:first] = answers.item_codes_BK[b, ranked]
            log_p_K = answers.item_log_probabilities_BK[b]
            log_p_K[kept:first] = log_p_K[ranked]
            codes = np.searchsorted(lists.starts_C, positions, side="right") - 1
            answers.items_BK[b, first:] = lists.item_ids_N[positions]
            answers.scores_BK[b, first:] = answers.scores_BK[b, first - 1] if first else 0.0
            answers.item_codes_BK[b, first:] = codes
            log_p_K[first:] = log_p_BC[b, codes]
            answers.propensities_BK[b, first:] = drawn.propensities_BR[b, there_R]
