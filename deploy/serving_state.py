"""One snapshot, loaded and able to answer: what a request sees from its beginning to its end.

A `ServingState` is immutable, so a request that holds one never mixes versions, and swapping is
replacing one reference. The service and the registered pyfunc model both answer through
`ServingState.answer`, which is why they agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from indexer.snapshot import Snapshot, load_snapshot
from indexer.soft_search import Config as SearchConfig
from indexer.soft_search import SoftSearch
from model.histories import History
from streaming.events import HISTORY_LENGTH

MAX_K = 500


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
    """

    items: Sequence[int]
    times: Sequence[int] | None = None
    now_ms: int | None = None
    k: int = 50
    codes: int | None = None
    exclude_seen: bool = True

    def __post_init__(self) -> None:
        if self.times is not None and len(self.times) != len(self.items):
            raise QueryError(
                f"history has {len(self.items)} items and history_times {len(self.times)} times"
            )
        if not 1 <= self.k <= MAX_K:
            raise QueryError(f"k is {self.k}, it must be between 1 and {MAX_K}")
        if self.codes is not None and self.codes < 1:
            raise QueryError(f"codes is {self.codes}, it must be at least 1")


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
        scores: log p(c|u) + s(u, i, c).
        codes: first-level code of each item.
        code_probabilities: p(c|u) of that code.
        searched: the codes that were searched, most probable first.
        now_ms: the time that the query was answered for.
    """

    items: list[int]
    scores: list[float]
    codes: list[int]
    code_probabilities: list[float]
    searched: list[SearchedCode]
    now_ms: int


class ServingState:
    """A loaded snapshot, able to answer; never changed.

    Attributes:
        snapshot: as loaded, with the items appended to it until then.
        event_time_ms: newest event that the snapshot learnt from.
    """

    def __init__(self, snapshot: Snapshot, search: SearchConfig) -> None:
        self.snapshot = snapshot
        facts = snapshot.manifest.facts
        self.event_time_ms = int((facts.get("event_time_range") or [0, 0])[1])
        self._search = SoftSearch(snapshot.model, snapshot.lists, search)

    @classmethod
    def load(cls, directory: Path, search: SearchConfig) -> ServingState:
        """Verify and load a snapshot directory.

        Raises:
            SnapshotError: if a file is missing or altered, or the content does not fit together.
        """
        return cls(load_snapshot(directory), search)

    @property
    def version(self) -> int:
        """The indexer's number of the snapshot."""
        return self.snapshot.version

    def answer(self, query: Query, clock_ms: int = 0) -> Answer:
        """Retrieve for one query; `clock_ms` is the newest event time known elsewhere."""
        times = query.times or ()
        now_ms = query.now_ms
        if now_ms is None:
            now_ms = max(clock_ms, self.event_time_ms, *times, 0)
        recent = [now_ms] * len(query.items) if query.times is None else list(times)
        history = History(list(query.items)[-HISTORY_LENGTH:], recent[-HISTORY_LENGTH:])
        found = self._search.search(
            [history],
            np.array([now_ms], np.int64),
            query.k,
            codes=query.codes,
            exclude=[query.items if query.exclude_seen else ()],
        )
        there = found.items_BK[0] >= 0
        searched = [
            SearchedCode(int(code), float(probability), int(quota))
            for code, probability, quota in zip(
                found.searched_BS[0], found.probabilities_BS[0], found.quota_BS[0], strict=True
            )
            if code >= 0
        ]
        return Answer(
            found.items_BK[0][there].tolist(),
            found.scores_BK[0][there].astype(np.float64).tolist(),
            found.item_codes_BK[0][there].tolist(),
            np.exp(found.item_log_probabilities_BK[0][there].astype(np.float64)).tolist(),
            searched,
            int(now_ms),
        )

    def items_for(
        self, histories: Sequence[History], now_ms: NDArray[np.int64], k: int
    ) -> NDArray[np.int64]:
        """The k best items of many histories, each at its own time: (B, k), padded with -1."""
        return self._search.search(histories, now_ms, k).items_BK

    def interests(
        self, histories: Sequence[History], now_ms: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """p(c|u) of many histories, each at its own time, as searched: float64 (B, C)."""
        model = self.snapshot.model
        logs = model.log_interests(model.encode(histories, now_ms)).astype(np.float64)
        logs /= self._search.config.temperature
        weights = np.exp(logs - logs.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True)

    def titles(self, item_ids: Sequence[int]) -> list[dict[str, str]]:
        """title, category and external_id of each item; empty strings where unknown."""
        items = self.snapshot.items
        ids = np.asarray(item_ids, np.int64)
        at = np.searchsorted(items.item_ids_N, ids)
        known = (at < len(items)) & (items.item_ids_N[np.minimum(at, len(items) - 1)] == ids)
        columns = items.rows.select(["title", "category", "external_id"])
        rows = iter(columns.take(pa.array(at[known])).to_pylist())
        nothing = {"title": "", "category": "", "external_id": ""}
        return [next(rows) if one else nothing for one in known]
