"""Soft search: the answer of the most probable codes, each asked with its own user vector.

For a history the interest head gives log p(c|u) of every first-level code c. The K most probable
codes that hold items are searched, each with the user vector of that code (SPARC, arXiv
2508.09090), and their lists are merged. An item scores s(u, i, c), the inner product and what
evidence adds: one softmax over all items is trained, so scores of different lists can be compared
as they are. Where the lists hold more than a query may cost, the cells of their second-level codes
are ranked by their means, and the best are scored. With joint quota a few items are scored whatever
their code (`indexer.search.evidence`), and the last places of an answer can be reserved for
exploration (`indexer.search.exploration`).

    code_choice      which codes are searched, by which user vectors
    cell_choice      which rows of their lists
    query_scores     the best items of these rows
    device_scores    the same on a GPU
    exploration      the places that are drawn

But for the reserved places the result equals brute force over the rows that are scored. Shapes: B
queries, K results, S searched codes, C codes, N items in the lists.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from indexer.errors import IndexerError
from indexer.lists.code_list import CodeList
from indexer.lists.code_lists import CodeLists
from indexer.lists.device_rows import DeviceRows
from indexer.search.answers import Answers, Candidates, joined
from indexer.search.cell_choice import CellChoice
from indexer.search.code_choice import CodeChoice, EncodedQueries, Queries
from indexer.search.config import SearchConfig
from indexer.search.evidence import HotItems
from indexer.search.exploration import ReservedPlaces
from indexer.search.prior import RecencyPrior
from indexer.search.query_scores import QueryScores
from indexer.search.selection import Selection
from indexer.search.similar_items import SimilarItems

if TYPE_CHECKING:  # torch is needed by the model only
    from model.histories import History
    from model.retrieval.retrieval_model import RetrievalModel

REPACKED = 0.5
"""A list that changed by so much of itself since it was laid out is laid out anew."""
CHUNK = 64
"""Queries answered together; bounds the memory."""


class SoftSearch:
    """Answers histories from one model and the lists built with it; safe to share by threads.

    Args:
        model: of one version.
        lists: built with it.
        config: how queries are answered.
        listed_ms_N: int64 (N,), when the item of each position was first listed, where young items
            have reserved places.
        cells: of the lists, where there are any already.
        device: where lists are searched, as far as they fit; None: where they are.

    Attributes:
        similar: answers what is like an item.
    """

    def __init__(
        self,
        model: RetrievalModel,
        lists: CodeLists,
        config: SearchConfig | None = None,
        listed_ms_N: NDArray[np.int64] | None = None,
        cells: CellChoice | None = None,
        device: DeviceRows | None = None,
    ) -> None:
        if (len(lists.lists), lists.dimension) != (model.first_level_codes, model.dimension):
            raise IndexerError(
                f"lists of {len(lists.lists)} codes and dimension {lists.dimension}, model of "
                f"{model.first_level_codes} and {model.dimension}: they are of different versions"
            )
        self.model = model
        self.lists = lists
        self.config = config or SearchConfig()
        joint = self.config.quota == "joint"
        self._cells = cells or CellChoice(lists, RecencyPrior(model, lists))
        hot = HotItems(model, lists, self.config.evidence if joint else 0)
        self._choice = CodeChoice(model, lists, self.config.temperature, hot.codes)
        self._device = device
        self._scores = QueryScores(self._cells, self.config, hot, device)
        self.similar = SimilarItems(model, lists, self._choice, self._scores)
        self._reserved = ReservedPlaces(lists, self.config.explore, listed_ms_N)

    def searched_by(
        self, config: SearchConfig, listed_ms_N: NDArray[np.int64] | None = None
    ) -> SoftSearch:
        """The same lists searched in another way; what does not depend on it is shared."""
        return SoftSearch(self.model, self.lists, config, listed_ms_N, self._cells, self._device)

    def search(
        self,
        histories: Sequence[History],
        now_ms: NDArray[np.int64],
        k: int,
        codes: int | None = None,
        exclude: bool | Sequence[Collection[int]] = True,
        only: Selection | None = None,
    ) -> Answers:
        """The k best items of each history.

        Of what may answer all is scored, whatever its code, where a query may cost as much; else
        as many more codes are searched as hold as much of it as these of all items.

        Args:
            histories: B histories, oldest item first; an empty one is answered by the prior.
            now_ms: (B,) time of each query.
            k: answers per query.
            codes: how many codes to search, instead of `config.codes`.
            exclude: True leaves out the items of the history, False nothing; or give the items to
                leave out, one collection per query.
            only: what may answer, of `select`; None: all that is in the lists.

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
        codes = self._scores.codes_among(only, codes)
        now_ms_B = np.broadcast_to(np.asarray(now_ms, np.int64), (len(histories),))
        queries = Queries(histories, now_ms_B, k, codes, unwanted, only)
        # padded to the longest of a chunk, most would be padding
        order = np.argsort([len(history.items) for history in histories], kind="stable")
        parts = [self._search(some) for some in queries.taken(order).in_chunks(CHUNK)]
        return joined(parts, k).taken(np.argsort(order))

    def select(self, mask_N: NDArray[np.bool_]) -> Selection:
        """What may answer, given which positions in the lists may."""
        return self._scores.select(mask_N)

    def _search(self, queries: Queries) -> Answers:
        encoded = self._choice.encode(queries)
        answers, positions_BK = self._ranked(encoded)
        if self._reserved.places(queries.k):
            self._reserved.fill(answers, positions_BK, encoded)
        return replace(answers, quota_BS=_places(answers.searched_BS, answers.item_codes_BK))

    def _ranked(self, encoded: EncodedQueries) -> tuple[Answers, NDArray[np.int64]]:
        """The answers, best first, and their positions."""
        answers, positions_BK = _nothing(encoded)
        scores_Bk, positions_Bk, answers.scored_B[:] = self._scores.best_of_all(encoded)
        there = scores_Bk > -np.inf
        items_Bk = np.full(scores_Bk.shape, -1)
        items_Bk[there] = self.lists.item_ids_N[positions_Bk[there]]
        order_Bk = np.lexsort((items_Bk, -scores_Bk), axis=1)
        scores_Bk = np.take_along_axis(scores_Bk, order_Bk, axis=1)
        positions_Bk = np.take_along_axis(positions_Bk, order_Bk, axis=1)
        items_Bk = np.take_along_axis(items_Bk, order_Bk, axis=1)
        b, place = np.nonzero(scores_Bk > -np.inf)
        codes = self.lists.codes_at(positions_Bk[b, place])
        positions_BK[b, place] = positions_Bk[b, place]
        answers.items_BK[b, place] = items_Bk[b, place]
        answers.scores_BK[b, place] = scores_Bk[b, place]
        answers.item_codes_BK[b, place] = codes
        answers.item_log_probabilities_BK[b, place] = encoded.log_p_BC[b, codes]
        return answers, positions_BK

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
            encoded = self._choice.encode(some)
            lengths_BS = self.lists.lengths_C[encoded.searched_BS]
            shape = (len(some), int(lengths_BS[:1].sum()))
            positions_BN = np.zeros(shape, np.int32)
            scores_BN, evidence_BN = np.zeros(shape, np.float32), np.zeros(shape, bool)
            for b in range(len(some)):
                scored, evidence = self._scores.every(encoded, b)
                scores_n, positions_n = (x[: scored.rows] for x in scored[:2])
                firsts = np.searchsorted(positions_n, self.lists.starts_C[encoded.searched_BS[b]])
                order = _side_by_side(firsts, lengths_BS[b])
                positions_BN[b], scores_BN[b] = positions_n[order], scores_n[order]
                evidence_BN[b] = np.isin(positions_n[order], evidence)
            yield Candidates(
                self.lists.item_ids_N[positions_BN],
                scores_BN,
                encoded.searched_BS,
                np.cumsum(lengths_BS, axis=1) - lengths_BS,
                encoded.log_p_BC,
                evidence_BN,
            )


def _nothing(encoded: EncodedQueries) -> tuple[Answers, NDArray[np.int64]]:
    """Answers without items, to be filled, and the positions of none."""
    shape = (len(encoded.queries), encoded.queries.k)
    answers = Answers(
        np.full(shape, -1),
        np.full(shape, -np.inf, np.float32),
        np.full(shape, -1),
        np.full(shape, -np.inf, np.float32),
        encoded.searched_BS,
        np.exp(encoded.log_p_BS),
        encoded.searched_BS,
        np.ones(shape, np.float32),
        np.zeros(shape[0], np.int64),
    )
    return answers, np.full(shape, -1)


def _side_by_side(firsts_S: NDArray[np.int64], sizes_S: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers of several ranges, one behind the other."""
    ends_S = np.cumsum(sizes_S)
    return np.repeat(firsts_S - (ends_S - sizes_S), sizes_S) + np.arange(sizes_S.sum())


def _places(searched_BS: NDArray[np.int64], codes_BK: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many places of an answer each searched code fills."""
    quota_BS = (searched_BS[:, :, None] == codes_BK[:, None]).sum(axis=2)
    quota_BS[searched_BS < 0] = 0
    return quota_BS


class ServedPath:
    """Answers as the service would: soft search over the lists of one published model.

    The lists are those of the model's base, changed by each of its further segments in turn: so
    they are the same whether somebody followed the versions or begins with this one.

    Args:
        config: how queries are answered.
        model: a published one.
        before: what answered by the model before; what did not change since is shared with it.
    """

    def __init__(
        self, config: SearchConfig, model: RetrievalModel, before: ServedPath | None = None
    ) -> None:
        segments = model.items.segments
        lists, known = None, 0
        if before is not None:
            earlier = before._search.model.items.segments
            if len(earlier) <= len(segments) and all(map(operator.is_, earlier, segments)):
                lists, known = before._search.lists, len(earlier)
        if lists is None:
            base, known = segments[0], 1
            lists = CodeLists.build(base.ids_n, base.codes_nQ, base.z_nD, model.first_level_codes)
        for segment in segments[known:]:
            lists = lists.without(segment.gone_ids_g)
            lists = lists.with_items(segment.ids_n, segment.codes_nQ, segment.z_nD)
            lists = lists.replaced(
                {
                    code: CodeList(one.packed())
                    for code, one in enumerate(lists.lists)
                    if one.changes > REPACKED * len(one)
                }
            )
        self._config = config
        self._search: SoftSearch = SoftSearch(model, lists, config)

    def answer(
        self,
        histories: Sequence[History],
        now_ms: NDArray[np.int64],
        k: int,
        exclude_history: bool = True,
    ) -> NDArray[np.int64]:
        """See `model.training.prequential.Answerer`."""
        return self._search.search(histories, now_ms, k, exclude=exclude_history).items_BK

    def followed_by(self, model: RetrievalModel) -> ServedPath:
        """See `model.training.prequential.Answerer`."""
        return ServedPath(self._config, model, self)
