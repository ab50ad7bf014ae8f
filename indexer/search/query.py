"""A query, and what it is answered; both hold for every way to search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from indexer.catalogue.filter import Filter
from indexer.search.answers import Answers

MAX_K = 500
MOST_NAMED = 10_000
"""Items that a query may leave out, or ask for, by their ids."""


class QueryError(ValueError):
    """A query makes no sense; the message names the field."""


@dataclass(frozen=True)
class Query:
    """What to retrieve.

    Attributes:
        items: the user's clicks, oldest first; may be empty. The newest 50 are used.
        times: of the clicks in milliseconds, as many; None: they count as made just now.
        now_ms: time of the query; None: the newest time known, which follows the log's clock.
        k: number of items, 1 to 500.
        codes: number of codes to search; None: as configured.
        exclude_seen: leave out all of `items`.
        exclude: ids of further items to leave out.
        filter: what the items must meet, by their category and attributes.
        include_only: ids of the items that may answer; None: any.
    """

    items: Sequence[int]
    times: Sequence[int] | None = None
    now_ms: int | None = None
    k: int = 50
    codes: int | None = None
    exclude_seen: bool = True
    exclude: Sequence[int] = ()
    filter: Filter | None = None
    include_only: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if self.times is not None and len(self.times) != len(self.items):
            raise QueryError(
                f"history has {len(self.items)} items and history_times {len(self.times)} times"
            )
        if not 1 <= self.k <= MAX_K:
            raise QueryError(f"k is {self.k}, it must be between 1 and {MAX_K}")
        if self.codes is not None and self.codes < 1:
            raise QueryError(f"codes is {self.codes}, it must be at least 1")
        for name in ("exclude", "include_only"):
            if len(getattr(self, name) or ()) > MOST_NAMED:
                raise QueryError(f"{name} names more than {MOST_NAMED} items")


@dataclass(frozen=True)
class SearchedCode:
    """A first-level code that was searched: p(c|u), and the places of the answer it filled."""

    code: int
    probability: float
    quota: int


@dataclass(frozen=True)
class Answer:
    """Items best first, with the code that brought each; all lists of items have one length.

    Attributes:
        items: item ids.
        scores: never ascending; a drawn item has the score of the last ranked one.
        codes: first-level code of each item.
        code_probabilities: p(c|u) of that code.
        propensities: probability with which the item came to its place, given those before it: 1
            for what was ranked, less for what was drawn.
        searched: the codes that were searched, most probable first.
        now_ms: the time that the query was answered for.
    """

    items: list[int]
    scores: list[float]
    codes: list[int]
    code_probabilities: list[float]
    propensities: list[float]
    searched: list[SearchedCode]
    now_ms: int

    @classmethod
    def of(cls, found: Answers, row: int, now_ms: int) -> Answer:
        """That of a row of a batch, without its padding."""
        there = found.items_BK[row] >= 0
        searched = [
            SearchedCode(int(code), float(probability), int(quota))
            for code, probability, quota in zip(
                found.searched_BS[row],
                found.probabilities_BS[row],
                found.quota_BS[row],
                strict=True,
            )
            if code >= 0
        ]
        return cls(
            found.items_BK[row][there].tolist(),
            found.scores_BK[row][there].astype(np.float64).tolist(),
            found.item_codes_BK[row][there].tolist(),
            np.exp(found.item_log_probabilities_BK[row][there].astype(np.float64)).tolist(),
            found.propensities_BK[row][there].astype(np.float64).tolist(),
            searched,
            now_ms,
        )
