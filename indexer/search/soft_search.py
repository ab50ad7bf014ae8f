"""Soft search: the answer of the most probable codes, each asked with its own user vector.

For a history the interest head gives log p(c|u) of every first-level code c. The K most probable
codes that hold items are searched, each with the user vector of that code (SPARC, arXiv
2508.09090), and their lists are merged. An item scores s(u, i, c), the inner product: one softmax
over all items is trained, so scores of different lists can be compared as they are. With joint
quota a few items are scored whatever their code (`indexer.search.evidence`), and the last places
of an answer can be reserved for exploration (`indexer.search.exploration`).

    code_choice      which codes are searched, by which user vectors
    list_scoring     the best items of their lists
    exploration      the places that are drawn
    single_query     the same for a query that comes alone

But for the reserved places the result equals brute force over the searched lists. Shapes: B
queries, K results, S searched codes, C codes, N items in the lists.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from indexer.errors import IndexerError
from indexer.lists.code_lists import CodeLists
from indexer.search.answers import Answers, Candidates, joined, padded
from indexer.search.code_choice import CodeChoice, EncodedQueries, Queries
from indexer.search.config import SearchConfig
from indexer.search.evidence import Evidence
from indexer.search.exploration import ReservedPlaces
from indexer.search.list_scoring import ListScores
from indexer.search.single_query import SingleQuery

if TYPE_CHECKING:  # torch is needed by the model only
    from model.histories import History
    from model.retrieval.retrieval_model import RetrievalModel

CHUNK = 256
"""Queries scored together; bounds the score matrix."""


class SoftSearch:
    """Answers histories from one model and the lists built with it; safe to share by threads.

    Args:
        model: of one version.
        lists: built with it.
        config: how queries are answered.
        listed_ms_N: int64 (N,), when the item of each position was first listed, where young items
            have reserved places.
    """

    def __init__(
        self,
        model: RetrievalModel,
        lists: CodeLists,
        config: SearchConfig | None = None,
        listed_ms_N: NDArray[np.int64] | None = None,
    ) -> None:
        if (len(lists.lists), lists.dimension) != (model.first_level_codes, model.dimension):
            raise IndexerError(
                f"lists of {len(lists.lists)} codes and dimension {lists.dimension}, model of "
                f"{model.first_level_codes} and {model.dimension}: they are of different versions"
            )
        self.model = model
        self.lists = lists
        self.config = config or SearchConfig()
        joint, evidence = self.config.quota == "joint", None
        if self.config.evidence and joint:
            evidence = Evidence(model, lists, self.config.evidence)
        self._choice = CodeChoice(
            model, lists, self.config.temperature, self.config.largest_share, evidence
        )
        self._scores = ListScores(lists, self.config.quota, evidence)
        self._reserved = ReservedPlaces(lists, self.config.explore, listed_ms_N)
        self._single: SingleQuery | None = None
        if joint and len(lists):
            self._single = SingleQuery(lists, self._choice, self._reserved, evidence)

    def search(
        self,
        histories: Sequence[History],
        now_ms: NDArray[np.int64],
        k: int,
        codes: int | None = None,
        exclude: bool | Sequence[Collection[int]] = True,
    ) -> Answers:
        """The k best items of each history.

        Args:
            histories: B histories, oldest item first; an empty one is answered by the prior.
            now_ms: (B,) time of each query.
            k: answers per query.
            codes: how many codes to search, instead of `config.codes`.
            exclude: True leaves out the items of the history, False nothing; or give the items to
                leave out, one collection per query.

        Raises:
            IndexerError: for k or codes below 1, or a model that answers NaN.
        """
        codes = self.config.codes if codes is None else codes
        if k < 1 or codes < 1:
            raise IndexerError(f"k is {k} and codes {codes}: both must be at least 1")
        if isinstance(exclude, bool):
            unwanted: Sequence[Collection[int]] = [h.items if exclude else () for h in histories]
        else:
            unwanted = exclude
        now_ms_B = np.broadcast_to(np.asarray(now_ms, np.int64), (len(histories),))
        queries = Queries(histories, now_ms_B, k, codes, unwanted)
        if len(queries) == 1 and self._single is not None:
            return self._single.answer(queries)
        return joined([self._search(some) for some in queries.in_chunks(CHUNK)], k)

    def _search(self, queries: Queries) -> Answers:
        encoded = self._choice.encode(queries)
        found, positions_BK = self._ranked(encoded, *self._scores.best(encoded))
        if self._reserved.places(queries.k):
            self._reserved.fill(found, positions_BK, encoded)
        return replace(found, quota_BS=_places(found.searched_BS, found.item_codes_BK))

    def _ranked(
        self,
        encoded: EncodedQueries,
        scores_BW: NDArray[np.float32],
        positions_BW: NDArray[np.int64],
    ) -> tuple[Answers, NDArray[np.int64]]:
        """Answers but for their quota, and the positions of their items, -1 at padding."""
        k = encoded.queries.k
        ids_N = self.lists.item_ids_N if len(self.lists.item_ids_N) else np.array([-1])
        items = ids_N[positions_BW]
        order = np.lexsort((items, -scores_BW), axis=1)
        row_B1 = np.arange(len(order))[:, None]
        items, scores, positions = (x[row_B1, order] for x in (items, scores_BW, positions_BW))
        codes = np.searchsorted(self.lists.starts_C, positions, side="right") - 1
        log_p = encoded.log_p_BC[row_B1, codes]
        away = scores == -np.inf
        if away.any():
            items[away] = positions[away] = codes[away] = -1
            log_p[away] = -np.inf
        answers = Answers(
            padded(items, k, -1),
            padded(scores, k, -np.inf),
            padded(codes, k, -1),
            padded(log_p, k, -np.inf),
            encoded.searched_BS,
            np.exp(encoded.log_p_BS),
            encoded.searched_BS,
            np.ones((len(codes), k), np.float32),
        )
        return answers, padded(positions, k, -1)

    def candidates(
        self, histories: Sequence[History], now_ms: NDArray[np.int64]
    ) -> Iterator[Candidates]:
        """All items with the scores by which a search would rank them, `CHUNK` queries at a time.

        Items of the history are left out. The best of the lists of the first K codes are what
        `search` answers with K codes and joint quota, where K lists hold enough.
        """
        now_ms_B = np.broadcast_to(np.asarray(now_ms, np.int64), (len(histories),))
        every = len(self.lists.lists)
        unwanted = [history.items for history in histories]
        for some in Queries(histories, now_ms_B, 1, every, unwanted).in_chunks(CHUNK):
            encoded = self._choice.encode(some, bounded=False)
            lengths_BS = self.lists.lengths_C[encoded.searched_BS]
            scores_BN, positions_BN = self._scores.every(encoded)
            evidence_BN = np.zeros((len(some), len(self.lists) + 1), bool)
            if encoded.evidence is not None:
                np.put_along_axis(evidence_BN, encoded.evidence[0], True, axis=1)
            yield Candidates(
                self.lists.item_ids_N[positions_BN],
                scores_BN,
                encoded.searched_BS,
                np.cumsum(lengths_BS, axis=1) - lengths_BS,
                encoded.log_p_BC,
                np.take_along_axis(evidence_BN, positions_BN.astype(np.int64), axis=1),
            )


def _places(searched_BS: NDArray[np.int64], codes_BK: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many places of an answer each searched code fills."""
    quota_BS = (searched_BS[:, :, None] == codes_BK[:, None]).sum(axis=2)
    quota_BS[searched_BS < 0] = 0
    return quota_BS


class ServedPath:
    """Answers as the service would: soft search over the lists of one published model."""

    def __init__(self, config: SearchConfig, model: RetrievalModel) -> None:
        lists = CodeLists.build(
            model.item_ids_N, model.codes_NQ[:, 0], model.vectors_ND, model.first_level_codes
        )
        self._search = SoftSearch(model, lists, config)

    def answer(
        self,
        histories: Sequence[History],
        now_ms: NDArray[np.int64],
        k: int,
        exclude_history: bool = True,
    ) -> NDArray[np.int64]:
        """See `model.training.prequential.Answerer`."""
        return self._search.search(histories, now_ms, k, exclude=exclude_history).items_BK
