"""Which codes a query is searched in, by what user vectors, and what must not answer it.

The K most probable codes that hold items are searched. Where their lists hold fewer than k items
that may be answered, further codes follow in order of probability, so an answer is short only where
the catalogue is.

Shapes: B queries, S searched codes, C codes, D dimension, U codes whose user vectors are needed, P
features of the recency prior, n excluded items.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from indexer.errors import IndexerError
from indexer.lists.code_lists import CodeLists
from indexer.search.evidence import Near
from indexer.search.selection import Selection

if TYPE_CHECKING:  # torch is needed by the model only
    from model.histories import History
    from model.retrieval.retrieval_model import RetrievalModel

LEAST_LOG_P = np.float32(-1e30)
"""Stands for log 0, so that a code of probability 0 still comes before one without items."""


@dataclass(frozen=True)
class Queries:
    """Queries that want as much as each other.

    Attributes:
        histories: B of them, oldest item first.
        now_ms_B: int64, time of each.
        k: answers to each.
        codes: how many codes are searched at least.
        unwanted: ids of the items to leave out, one collection per query.
        only: what may answer them; None: all that is in the lists.
    """

    histories: Sequence[History]
    now_ms_B: NDArray[np.int64]
    k: int
    codes: int
    unwanted: Sequence[Collection[int]]
    only: Selection | None = None

    def __len__(self) -> int:
        return len(self.histories)

    def taken(self, rows: NDArray[np.intp] | slice) -> Queries:
        """Some of them, in this order."""
        numbers = np.arange(len(self))[rows].tolist()
        return replace(
            self,
            histories=[self.histories[b] for b in numbers],
            now_ms_B=self.now_ms_B[rows],
            unwanted=[self.unwanted[b] for b in numbers],
        )

    def in_chunks(self, size: int) -> Iterator[Queries]:
        """The same, so many at a time."""
        for a in range(0, len(self), size):
            yield self.taken(slice(a, a + size))


@dataclass(frozen=True)
class Excluded:
    """Excluded items that are in a list, query by query: (n,) query, code, position."""

    query: NDArray[np.int64]
    code: NDArray[np.int64]
    position: NDArray[np.int64]

    def of_query(self, b: int) -> NDArray[np.int64]:
        """The positions that one query must not be answered with."""
        first, last = np.searchsorted(self.query, (b, b + 1))
        return self.position[first:last]


@dataclass(frozen=True)
class EncodedQueries:
    """Queries as the model sees them.

    Attributes:
        queries: as they came.
        log_p_BC: log p(c|u).
        searched_BS: codes, most probable first, -1 padded.
        log_p_BS: of them, -inf at padding.
        codes_U: all codes that any of the queries needs, ascending.
        users_BUD: their user vectors.
        column_C: int64, where in `users_BUD` the vector of each code is, if anybody needs it.
        weights_BP: of the recency prior.
        excluded: unwanted items in any list.
        near: the neighbours of the histories.
        hot: whether hot items may answer whatever their code.
    """

    queries: Queries
    log_p_BC: NDArray[np.float32]
    searched_BS: NDArray[np.int64]
    log_p_BS: NDArray[np.float32]
    codes_U: NDArray[np.int64]
    users_BUD: NDArray[np.float32]
    column_C: NDArray[np.int64]
    weights_BP: NDArray[np.float32]
    excluded: Excluded
    near: Near
    hot: bool = True


NOTHING = Excluded(*(np.empty(0, np.int64) for _ in range(3)))


class CodeChoice:
    """Asks the model for codes and user vectors.

    Args:
        model: of one version.
        lists: built with it.
        temperature: of p(c|u).
        anyway: codes whose user vectors are needed for every query.
    """

    def __init__(
        self,
        model: RetrievalModel,
        lists: CodeLists,
        temperature: float,
        anyway: NDArray[np.int64],
    ) -> None:
        self._model = model
        self._lists = lists
        self._temperature = temperature
        self._anyway = anyway

    def encode(self, queries: Queries) -> EncodedQueries:
        """What the model says of some queries.

        Raises:
            IndexerError: for probabilities that are NaN and user vectors that are not finite.
        """
        users = self._model.encode(queries.histories, queries.now_ms_B)
        log_p_BC = self.log_interests(users)
        excluded = self.locate(queries.unwanted, queries.only)
        searched_BS = self.choose(log_p_BC, excluded, queries)
        rows_B1 = np.arange(len(queries))[:, None]
        valid_BS = searched_BS >= 0
        log_p_BS = np.where(valid_BS, log_p_BC[rows_B1, searched_BS], -np.inf)
        near = Near.of(self._model, self._lists, users, queries.only)
        needed_C = np.zeros(log_p_BC.shape[1] + 1, bool)  # the last for what is in no code
        for codes in (searched_BS, near.codes_BM, self._anyway):
            needed_C[codes] = True
        needed = np.flatnonzero(needed_C[:-1])
        column_C = np.cumsum(needed_C[:-1]) - 1
        users_BUD = self._model.user_vectors(
            users, np.broadcast_to(needed, (len(queries), len(needed)))
        )
        weights_BP = self._model.prior_weights(users)
        if not (np.isfinite(users_BUD).all() and np.isfinite(weights_BP).all()):
            raise IndexerError("the model answers user vectors that are not finite")
        return EncodedQueries(
            queries,
            log_p_BC,
            searched_BS,
            log_p_BS,
            needed,
            users_BUD,
            column_C,
            weights_BP,
            excluded,
            near,
        )

    def log_interests(self, users: Any) -> NDArray[np.float32]:
        """Log p(c|u) (B, C) of encoded histories, at the temperature; never less than the least.

        Raises:
            IndexerError: where it is NaN.
        """
        log_p_BC = self._model.log_interests(users)
        if self._temperature != 1.0:
            log_p_BC = log_p_BC / np.float32(self._temperature)
            log_p_BC = log_p_BC - log_sum_exp(log_p_BC)
        if np.isnan(log_p_BC).any():
            raise IndexerError("the model answers interest probabilities that are NaN")
        return np.maximum(log_p_BC, LEAST_LOG_P)

    def locate(
        self, unwanted: Sequence[Collection[int]], only: Selection | None = None
    ) -> Excluded:
        """The unwanted items that are in some list, and might answer but for that, each once."""
        distinct = [set(items) for items in unwanted]
        counts = [len(items) for items in distinct]
        if not any(counts):
            return NOTHING
        query = np.repeat(np.arange(len(unwanted)), counts)
        items = np.fromiter((i for some in distinct for i in some), np.int64, sum(counts))
        position, code = self._lists.positions_of(items)
        found = code >= 0 if only is None else only.has(position)
        return Excluded(query[found], code[found], position[found])

    def choose(
        self, log_p_BC: NDArray[np.float32], excluded: Excluded, queries: Queries
    ) -> NDArray[np.int64]:
        """The codes to search (B, S), most probable first, as many more as k answers need."""
        k, codes, only = queries.k, queries.codes, queries.only
        sizes_C = self._lists.sizes_C if only is None else only.sizes_C
        available = int(np.count_nonzero(sizes_C))
        order_BC = np.argsort(np.where(sizes_C > 0, -log_p_BC, np.inf), axis=1, kind="stable")
        searched_BS = order_BC[:, : min(codes, available)]
        held_B = sizes_C[searched_BS].sum(axis=1)
        if (held_B - np.bincount(excluded.query, minlength=len(log_p_BC)) >= k).all():
            return searched_BS  # they hold enough, wherever the excluded items are
        room_BC = np.broadcast_to(sizes_C, log_p_BC.shape).copy()
        np.subtract.at(room_BC, (excluded.query, excluded.code), 1)
        sums_BC = np.cumsum(np.take_along_axis(room_BC, order_BC, axis=1), axis=1)
        needed_B = (sums_BC < k).sum(axis=1) + 1
        counts_B = np.minimum(np.maximum(needed_B, codes), available)
        searched_BS = order_BC[:, : max(1, int(counts_B.max(initial=0)))]
        return np.where(np.arange(searched_BS.shape[1]) < counts_B[:, None], searched_BS, -1)


def log_sum_exp(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logarithm of the sum of exponentials of each row, (B, 1)."""
    top = x.max(axis=1, keepdims=True)
    total = np.exp(x - top).sum(axis=1, keepdims=True)
    return (top + np.log(total)).astype(np.float32)
