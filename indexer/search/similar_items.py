"""Similar items: what is clicked with one item, the trigger, and what lies where it lies.

The page of an item asks for more like it. Two things speak for an item: that the same users clicked
it and the trigger lately (the trigger's neighbours), and that it lies where the trigger lies, where
content and clicks have put both. The trigger's code is searched, and those whose centroids are next
to it, with the vectors that a user has in them who has clicked the trigger alone. With a history it
is trigger-induced retrieval: the same lists, searched with the vectors of the user who clicks the
trigger now. The recency prior has no say: what is hot is not for that like the trigger.

What the model has not learnt yet (it was placed by its content) is no click that it understands.
Then the trigger's own place is the vector, unless there is a history.

Shapes: S searched codes, C codes, U codes with user vectors, D dimension, K results.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from indexer.errors import IndexerError
from indexer.lists.code_lists import CodeLists
from indexer.search.code_choice import CodeChoice, EncodedQueries, Queries
from indexer.search.evidence import Near
from indexer.search.query_scores import QueryScores
from indexer.search.selection import Selection
from model.histories import History
from streaming.events import HISTORY_LENGTH

if TYPE_CHECKING:  # torch is needed by the model only
    from model.retrieval.retrieval_model import RetrievalModel


@dataclass(frozen=True)
class Trigger:
    """The item that others are to be like.

    Attributes:
        item: its id.
        code: its first-level code.
        vector_D: float32, its place.
    """

    item: int
    code: int
    vector_D: NDArray[np.float32]


Source = Literal["neighbour", "code", "nearby"]
"""The same users clicked it and the trigger; it has the trigger's code; it has one of those whose
centroids are next to the trigger."""


@dataclass(frozen=True)
class SimilarAnswer:
    """Items like a trigger, best first; all lists have one length.

    Attributes:
        code: first-level code of the trigger.
        items: item ids; fewer than asked for where the catalogue ends.
        scores: never ascending.
        codes: first-level code of each item.
        sources: what brought each item.
        now_ms: the time that the query was answered for.
    """

    code: int
    items: list[int]
    scores: list[float]
    codes: list[int]
    sources: list[list[Source]]
    now_ms: int


class SimilarItems:
    """Searches around items; safe to share by threads.

    Args:
        model: of one version.
        lists: built with it.
        choice: of codes.
        scores: of candidates.
    """

    def __init__(
        self, model: RetrievalModel, lists: CodeLists, choice: CodeChoice, scores: QueryScores
    ) -> None:
        self._model = model
        self._lists = lists
        self._choice = choice
        self._scores = scores

    def search(
        self,
        trigger: Trigger,
        history: History,
        now_ms: int,
        k: int,
        codes: int,
        unwanted: Collection[int] = (),
        only: Selection | None = None,
    ) -> SimilarAnswer:
        """The k items most like the trigger, without itself; costs what one query costs.

        Args:
            trigger: need not be in the lists.
            history: of the user who looks at it; empty: of nobody.
            now_ms: time of the query.
            k: answers.
            codes: how many are searched at least.
            unwanted: ids of further items to leave out.
            only: what may answer; None: all that is in the lists.

        Raises:
            IndexerError: for user vectors that are not finite.
        """
        clicked = _with_click(history, trigger.item, now_ms)
        now_ms_B = np.array([now_ms], np.int64)
        codes = self._scores.codes_among(only, codes)
        queries = Queries([clicked], now_ms_B, k, codes, [{trigger.item, *unwanted}], only)
        encoded = self._encode(queries, trigger)
        scores_1K, positions_1K, _ = self._scores.best_of_all(encoded)
        there_1K = scores_1K > -np.inf
        scores, positions = scores_1K[there_1K], positions_1K[there_1K]
        items = self._lists.item_ids_N[positions]
        order = np.lexsort((items, -scores))
        codes_K = self._lists.codes_at(positions[order]).tolist()
        near_K = np.isin(positions[order], encoded.near.positions_BM).tolist()
        return SimilarAnswer(
            trigger.code,
            items[order].tolist(),
            scores[order].astype(np.float64).tolist(),
            codes_K,
            [_sources(*one, trigger.code) for one in zip(near_K, codes_K, strict=True)],
            now_ms,
        )

    def _encode(self, queries: Queries, trigger: Trigger) -> EncodedQueries:
        click = History([trigger.item], queries.now_ms_B.tolist())
        clicked = self._model.encode([click], queries.now_ms_B)
        near = Near.of(self._model, self._lists, clicked, queries.only)
        log_p_1C = self._nearness(trigger)
        excluded = self._choice.locate(queries.unwanted, queries.only)
        searched_1S = self._choice.choose(log_p_1C, excluded, queries)
        codes_U = np.unique(np.concatenate([searched_1S[0], near.codes_BM[0]]))
        codes_U = codes_U[codes_U >= 0]
        column_C = np.zeros(log_p_1C.shape[1], np.int64)
        column_C[codes_U] = np.arange(len(codes_U))
        return EncodedQueries(
            queries=queries,
            log_p_BC=log_p_1C,
            searched_BS=searched_1S,
            log_p_BS=np.where(searched_1S >= 0, log_p_1C[0, searched_1S], -np.inf),
            codes_U=codes_U,
            users_BUD=self._users(queries, trigger, clicked, codes_U),
            column_C=column_C,
            weights_BP=np.zeros_like(self._model.prior_weights(clicked)),
            excluded=excluded,
            near=near,
            hot=False,
        )

    def _nearness(self, trigger: Trigger) -> NDArray[np.float32]:
        """Less than 0 the farther a code's centroid is; 0 for the trigger's own: (1, C)."""
        place_D = self._model.quantizer_space(trigger.vector_D[None])[0]
        near_C = -np.square(self._model.centroids_CD - place_D).sum(axis=1)
        near_C[trigger.code] = 0.0
        return near_C[None].astype(np.float32)

    def _users(
        self, queries: Queries, trigger: Trigger, clicked: Any, codes_U: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """The vectors that search these codes: (1, U, D)."""
        alone = len(queries.histories[0].items) == 1
        if alone and self._model.items.rows(np.array([trigger.item]))[0] < 0:
            return np.repeat(trigger.vector_D[None, None], len(codes_U), axis=1)
        if not alone:
            clicked = self._model.encode(queries.histories, queries.now_ms_B)
        users_1UD = self._model.user_vectors(clicked, codes_U[None])
        if not np.isfinite(users_1UD).all():
            raise IndexerError("the model answers user vectors that are not finite")
        return users_1UD


def _with_click(history: History, item: int, now_ms: int) -> History:
    """The history of who clicks an item now, as far as a model reads it.

    >>> _with_click(History([5, 7, 7], [1, 2, 3]), 7, 9)
    History(items=[5, 7], times=[1, 9])
    """
    before = len(history.items)
    while before and history.items[before - 1] == item:  # that was this click
        before -= 1
    first = max(0, before - HISTORY_LENGTH + 1)
    return History([*history.items[first:before], item], [*history.times[first:before], now_ms])


def _sources(neighbour: bool, code: int, own: int) -> list[Source]:
    found: list[Source] = ["neighbour"] if neighbour else []
    if code == own:
        found.append("code")
    return found or ["nearby"]
