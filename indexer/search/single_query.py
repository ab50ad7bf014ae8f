"""A query that comes alone, answered without what it takes to keep the queries of a batch apart.

The answer is that of a batch of one, to the bit. A batch of one spent three quarters of its time on
that bookkeeping, which is why there is this second way. Joint quota alone: shares by code are
for batches.

Shapes: S searched codes, C codes, D dimension, E items of evidence, W candidates, K places.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from indexer.lists.code_lists import CodeLists
from indexer.search.answers import Answers
from indexer.search.code_choice import CodeChoice, EncodedQueries, Queries
from indexer.search.evidence import Evidence
from indexer.search.exploration import ReservedPlaces

Scored = tuple[NDArray[np.float32], NDArray[np.int64]]


class SingleQuery:
    """Answers one query at a time; safe to share by threads.

    Args:
        lists: of one version, of one item at least.
        choice: asks the model for codes and user vectors.
        reserved: fills the reserved places.
        evidence: what is scored whatever its code, None for nothing.
    """

    def __init__(
        self,
        lists: CodeLists,
        choice: CodeChoice,
        reserved: ReservedPlaces,
        evidence: Evidence | None,
    ) -> None:
        self._lists = lists
        self._choice = choice
        self._reserved = reserved
        self._evidence = evidence

    def answer(self, queries: Queries) -> Answers:
        """As `SoftSearch.search` with one query.

        Raises:
            IndexerError: for a model that answers NaN.
        """
        encoded, k = self._choice.encode(queries), queries.k
        log_p_C, searched_S = encoded.log_p_BC[0], encoded.searched_BS[0]
        evident = self._evident(encoded)
        scores_W, positions_W = self._best(encoded, evident)
        items_W = self._lists.item_ids_N[positions_W]
        order = np.lexsort((items_W, -scores_W))
        order = order[: np.count_nonzero(scores_W > -np.inf)]
        answers, positions_1K = _nothing(searched_S, encoded.log_p_BS[0], k)
        here = (0, slice(len(order)))
        positions = positions_1K[here] = positions_W[order]
        item_codes = np.searchsorted(self._lists.starts_C, positions, side="right") - 1
        answers.items_BK[here] = items_W[order]
        answers.scores_BK[here] = scores_W[order]
        answers.item_codes_BK[here] = item_codes
        answers.item_log_probabilities_BK[here] = log_p_C[item_codes]
        if self._reserved.places(k):
            self._reserved.fill(answers, positions_1K, encoded)
        item_codes = answers.item_codes_BK[0]
        filled_C = np.bincount(item_codes[item_codes >= 0], minlength=len(log_p_C))
        answers.quota_BS[0] = filled_C[searched_S]
        return answers

    def _best(self, encoded: EncodedQueries, evident: Scored | None) -> Scored:
        """Scores and positions of the k best candidates, in no order; -inf where unwanted."""
        searched_S, users_SD, k = encoded.searched_BS[0], encoded.users_BSD[0], encoded.queries.k
        excluded, in_slots = encoded.excluded, encoded.excluded_in_slots
        lists, cut = self._lists, {}
        parts = []
        for slot, code in enumerate(searched_S.tolist()):
            one = lists.lists[code]
            if one.is_long:
                leave_out = excluded.row[excluded.code == code]
                scores, cut[slot] = one.best(users_SD[slot], k, leave_out)
            else:
                scores = one.scores(users_SD[slot : slot + 1])[0]
                if len(one.removed):
                    scores[one.removed] = -np.inf
            parts.append(scores)
        if evident is not None:
            parts.append(evident[0])
        widths = [len(part) for part in parts]
        starts = np.cumsum(widths) - widths
        scores_W = np.concatenate(parts)
        if len(in_slots.code):
            whole = ~np.isin(in_slots.slot, list(cut)) if cut else ...
            scores_W[starts[in_slots.slot[whole]] + in_slots.row[whole]] = -np.inf
        W = len(scores_W)
        best = np.argpartition(scores_W, W - k)[W - k :] if k < W else np.arange(W)
        slots = np.searchsorted(starts, best, side="right") - 1
        rows = best - starts[slots]
        for slot, kept in cut.items():
            here = slots == slot
            rows[here] = kept[rows[here]]
        positions = lists.starts_C[searched_S[slots.clip(max=len(searched_S) - 1)]] + rows
        if evident is not None:
            here = slots == len(searched_S)
            positions[here] = evident[1][rows[here]]
        return scores_W[best], positions

    def _evident(self, encoded: EncodedQueries) -> Scored | None:
        """The evidence, -inf where it is unwanted or in a searched list anyway."""
        if self._evidence is None or encoded.evidence is None:
            return None
        positions_1E, codes_1E, users_1CD = encoded.evidence
        scores_E = self._evidence.scores(positions_1E, codes_1E, users_1CD)[0]
        positions_E, excluded = positions_1E[0], encoded.excluded
        searched_C = np.zeros(len(self._lists.lists), bool)
        searched_C[encoded.searched_BS[0]] = True
        scores_E[searched_C[codes_1E[0]]] = -np.inf
        if len(excluded.code):
            unwanted = self._lists.starts_C[excluded.code] + excluded.row
            scores_E[np.isin(positions_E, unwanted)] = -np.inf
        return scores_E, positions_E.clip(min=0)


def _nothing(
    searched_S: NDArray[np.int64], log_p_S: NDArray[np.float32], k: int
) -> tuple[Answers, NDArray[np.int64]]:
    """An answer without items, to be filled, and the positions of none."""
    none = [np.full((1, k), -1) for _ in range(3)]
    never = [np.full((1, k), -np.inf, np.float32) for _ in range(2)]
    answers = Answers(
        none[0],
        never[0],
        none[1],
        never[1],
        searched_S[None],
        np.exp(log_p_S)[None],
        np.zeros((1, len(searched_S)), np.int64),
        np.ones((1, k), np.float32),
    )
    return answers, none[2]
