"""Explored against known interests: what the interest head promises, and what comes of it.

For a query a code is *known* when an item of the user's history carries it under the served
codebook, else it is *explored*. A good head gives explored codes as much probability as they turn
out to have, so the probability promised is set beside the share of targets found there.

Shapes: B queries, R rows, C codes, K items of an answer, S searched codes, W weeks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from indexer.lists.code_lists import CodeLists
from indexer.search.answers import Answers
from model.evaluation import gains
from model.evaluation.weekly_curves import DAYS
from model.histories import History

EDGES = np.logspace(-4, 0, 13)
"""Bounds of the probabilities that are set beside what happened, three to a decade."""
KINDS = ("known", "explored")


class Exploration:
    """Sums over the queries of an evaluation, by week and by predicted probability."""

    def __init__(self) -> None:
        self._weeks: defaultdict[int, defaultdict[str, float]] = defaultdict(
            lambda: defaultdict(float)
        )
        self._first: int | None = None
        bins = (len(KINDS), len(EDGES) + 1)
        self._pairs, self._promised, self._came = np.zeros(bins), np.zeros(bins), np.zeros(bins)

    def add(
        self,
        day: int,
        lists: CodeLists,
        histories: Sequence[History],
        log_p_BC: np.ndarray,
        found: Answers,
        query_R: np.ndarray,
        targets_R: np.ndarray,
    ) -> None:
        """Take in the rows of some queries of a day.

        Args:
            day: days since 1970-01-01.
            lists: of the version that answered.
            histories: B histories.
            log_p_BC: log p(c|u).
            found: the answers to the B queries.
            query_R: which of them each row asks.
            targets_R: item ids.
        """
        self._first = day if self._first is None else self._first
        known_BC = _codes_of(lists, histories, log_p_BC.shape[1])
        p_BC = np.exp(log_p_BC)
        target_R = lists.locate(targets_R)[0]
        rank_R = gains.ranks(found.items_BK[query_R], targets_R)
        hit_R, into_known_R = rank_R > 0, known_BC[query_R, target_R]
        brought_BK = np.take_along_axis(known_BC, np.maximum(found.item_codes_BK, 0), axis=1)
        asked_BS = np.take_along_axis(known_BC, np.maximum(found.searched_BS, 0), axis=1)
        there_BS = found.searched_BS >= 0
        sums = self._weeks[(day - self._first) // DAYS]
        sums["queries"] += len(query_R)
        sums["entropy"] += float((-p_BC * log_p_BC).sum(axis=1)[query_R].sum())
        for kind, yes in zip(KINDS, (True, False), strict=True):
            mine_R = into_known_R == yes
            sums[f"{kind}_codes"] += float((known_BC == yes).sum(axis=1)[query_R].sum())
            sums[f"{kind}_p"] += float((p_BC * (known_BC == yes)).sum(axis=1)[query_R].sum())
            sums[f"{kind}_targets"] += float(mine_R.sum())
            sums[f"{kind}_hits"] += float((hit_R & mine_R).sum())
            sums[f"{kind}_items"] += float((brought_BK == yes).sum(axis=1)[query_R].sum())
            searched_B = ((asked_BS == yes) & there_BS).sum(axis=1)
            sums[f"{kind}_searched"] += float(searched_B[query_R].sum())
        self._calibrate(p_BC[query_R], known_BC[query_R], target_R)

    def _calibrate(self, p_RC: np.ndarray, known_RC: np.ndarray, target_R: np.ndarray) -> None:
        came_RC = np.arange(p_RC.shape[1]) == target_R[:, None]
        bin_RC = np.digitize(p_RC, EDGES)
        size = self._pairs.shape[1]
        for kind, mine_RC in enumerate((known_RC, ~known_RC)):
            bins = bin_RC[mine_RC]
            self._pairs[kind] += np.bincount(bins, minlength=size)
            self._promised[kind] += np.bincount(bins, p_RC[mine_RC], size)
            self._came[kind] += np.bincount(bins, came_RC[mine_RC], size)

    def report(self) -> dict[str, Any]:
        """Means over all rows, by week, and promised against observed probability by bin."""
        total: defaultdict[str, float] = defaultdict(float)
        weekly = []
        for week, sums in sorted(self._weeks.items()):
            day = (self._first or 0) + DAYS * week
            weekly.append({"day": day, "queries": int(sums["queries"])} | _means(sums))
            for name, value in sums.items():
                total[name] += value
        if not total:
            return {}
        return _means(total) | {"weekly": weekly, "calibration": self._calibration()}

    def _calibration(self) -> dict[str, list[dict[str, float]]]:
        found = {}
        for kind, name in enumerate(KINDS):
            pairs = self._pairs[kind]
            found[name] = [
                {
                    "pairs": int(pairs[b]),
                    "promised": float(self._promised[kind, b] / pairs[b]),
                    "observed": float(self._came[kind, b] / pairs[b]),
                }
                for b in np.flatnonzero(pairs)
            ]
        return found


def _codes_of(lists: CodeLists, histories: Sequence[History], codes: int) -> np.ndarray:
    """True for the codes of each history's items: (B, C)."""
    counts = [len(history.items) for history in histories]
    owner = np.repeat(np.arange(len(histories)), counts)
    items = np.fromiter((i for h in histories for i in h.items), np.int64, sum(counts))
    code, _ = lists.locate(items)
    known_BC = np.zeros((len(histories), codes), dtype=bool)
    known_BC[owner[code >= 0], code[code >= 0]] = True
    return known_BC


def _means(sums: dict[str, float]) -> dict[str, Any]:
    """Means over queries, for each kind.

    Codes, codes searched, probability promised, share of the targets and of the items answered,
    recall of its targets, and hits per item answered.
    """
    queries = sums["queries"]
    answered = sums["known_items"] + sums["explored_items"]
    means: dict[str, Any] = {"entropy": sums["entropy"] / queries}
    for kind in KINDS:
        targets, items = sums[f"{kind}_targets"], sums[f"{kind}_items"]
        means[kind] = {
            "codes": sums[f"{kind}_codes"] / queries,
            "codes_searched": sums[f"{kind}_searched"] / queries,
            "probability": sums[f"{kind}_p"] / queries,
            "share_of_targets": targets / queries,
            "share_of_answers": items / answered,
            "recall@50": sums[f"{kind}_hits"] / targets if targets else None,
            "hits_per_item": sums[f"{kind}_hits"] / items if items else None,
        }
    return means
