"""Soft search: the answer of the most probable codes, each asked with its own user vector.

For a history the interest head gives log p(c|u) of every first-level code c. The K most probable
codes that hold items are searched, each with the user vector of that code (SPARC, arXiv
2508.09090), and their lists are merged. An item scores s(u, i, c), the inner product, as it is: one
softmax over all items is trained, so scores of different lists can be compared. With joint quota a
few items are scored whatever their code (`indexer.search.evidence`), and the last places of an
answer can be reserved for exploration (`indexer.search.exploration`).

    chosen_codes     which codes are searched, by which user vectors
    list_scores      the best items of their lists
    reserved_places  the places that are drawn
    single_query     the same for a query that comes alone

How many places a code gets is the quota policy: "joint" ranks all candidates by score;
"proportional" gives each code its share of k by probability (largest remainder, never more than
it holds); "equal" gives every searched code the same share.

But for the reserved places the result equals brute force over the searched lists. Shapes: B
queries, K results, S searched codes, C codes, N items in the lists.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from indexer.errors import IndexerError
from indexer.lists.code_lists import CodeLists
from indexer.search.answers import Answers, Candidates, joined, padded
from indexer.search.code_choice import CodeChoice, EncodedQueries
from indexer.search.evidence import Evidence
from indexer.search.exploration import ExplorationConfig
from indexer.search.list_scoring import ListScores, Quota
from indexer.search.reserved_places import ReservedPlaces
from indexer.search.single_query import SingleQuery

if TYPE_CHECKING:  # torch is needed by the model only
    from model.histories import History
    from model.retrieval.retrieval_model import RetrievalModel

CHUNK = 256
"""Queries scored together; bounds the score matrix."""


@dataclass(frozen=True)
class SearchConfig:
    """How a query is answered.

    Attributes:
        codes: how many codes are searched for a query (K of the paper); docs/RESULTS.md has the
            curve of recall against it.
        quota: "joint", "proportional" or "equal", see the module.
        temperature: of p(c|u): above 1 explores more codes, below 1 fewer; 1 is the head as learnt.
        evidence: with joint quota so many items of the greatest recency prior are scored, too,
            and the neighbours of the history, whatever their code; 0: the lists alone.
        largest_share: share of the catalogue that the lists of these codes may hold together: the
            least probable codes are left out where they hold more, so that no query costs more than
            it may. 1: no bound.
        explore: places that are reserved for what the ranking would not show.
    """

    codes: int = 9
    quota: Quota = "joint"
    temperature: float = 1.0
    evidence: int = 256
    largest_share: float = 1.0
    explore: ExplorationConfig = field(default_factory=ExplorationConfig)

    def __post_init__(self) -> None:
        if self.codes < 1 or not self.temperature > 0:
            raise IndexerError(
                f"codes is {self.codes} and temperature {self.temperature}: both must be positive"
            )
        if not 0 < self.largest_share <= 1:
            raise IndexerError(f"largest_share is {self.largest_share}: use more than 0, at most 1")
        if self.evidence < 0:
            raise IndexerError(f"evidence is {self.evidence}: use 0 or more")
        if self.quota not in ("joint", "proportional", "equal"):
            raise IndexerError(f"quota is {self.quota!r}: use joint, proportional or equal")


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
        quota, evidence = self.config.quota, None
        if self.config.evidence and quota == "joint":
            evidence = Evidence(model, lists, self.config.evidence)
        self._choice = CodeChoice(
            model, lists, self.config.temperature, self.config.largest_share, evidence
        )
        self._scores = ListScores(lists, quota, evidence)
        self._reserved = ReservedPlaces(lists, self.config.explore, listed_ms_N)
        self._single: SingleQuery | None = None
        if quota == "joint" and len(lists):
            self._single = SingleQuery(
                lists,
                self._choice,
                self._reserved,
                evidence,
            )

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
        if len(histories) == 1 and self._single is not None:
            now_ms = np.asarray(now_ms, np.int64).reshape(1)
            return self._single.answer(histories[0], now_ms, k, codes, unwanted[0])
        now_ms = np.broadcast_to(np.asarray(now_ms, np.int64), (len(histories),))
        parts = [
            self._search(
                histories[a : a + CHUNK], now_ms[a : a + CHUNK], k, codes, unwanted[a : a + CHUNK]
            )
            for a in range(0, len(histories), CHUNK)
        ]
        return joined(parts, k)

    def _search(
        self,
        histories: Sequence[History],
        now_ms: NDArray[np.int64],
        k: int,
        codes: int,
        unwanted: Sequence[Collection[int]],
    ) -> Answers:
        asked = self._choice.ask(histories, now_ms, k, codes, unwanted)
        found, positions_BK = self._ranked(asked, *self._scores.best(asked, k), k)
        if self._reserved.places(k):
            self._reserved.fill(
                found, positions_BK, asked.log_p_BC, asked.everywhere, histories, now_ms
            )
        return replace(found, quota_BS=_places(found.searched_BS, found.item_codes_BK))

    def _ranked(
        self,
        asked: EncodedQueries,
        scores_BW: NDArray[np.float32],
        positions_BW: NDArray[np.int64],
        k: int,
    ) -> tuple[Answers, NDArray[np.int64]]:
        """Answers but for their quota, and the positions of their items, -1 at padding."""
        ids_N = self.lists.item_ids_N if len(self.lists.item_ids_N) else np.array([-1])
        items = ids_N[positions_BW]
        order = np.lexsort((items, -scores_BW), axis=1)
        row_B1 = np.arange(len(order))[:, None]
        items, scores, positions = (x[row_B1, order] for x in (items, scores_BW, positions_BW))
        codes = np.searchsorted(self.lists.starts_C, positions, side="right") - 1
        log_p = asked.log_p_BC[row_B1, codes]
        away = scores == -np.inf
        if away.any():
            items[away] = positions[away] = codes[away] = -1
            log_p[away] = -np.inf
        answers = Answers(
            padded(items, k, -1),
            padded(scores, k, -np.inf),
            padded(codes, k, -1),
            padded(log_p, k, -np.inf),
            asked.searched_BS,
            np.exp(asked.log_p_BS),
            asked.searched_BS,
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
        now_ms = np.broadcast_to(np.asarray(now_ms, np.int64), (len(histories),))
        every = len(self.lists.lists)
        for a in range(0, len(histories), CHUNK):
            part = histories[a : a + CHUNK]
            unwanted = [history.items for history in part]
            now = now_ms[a : a + CHUNK]
            asked = self._choice.ask(part, now, 1, every, unwanted, bounded=False)
            lengths_BS = self.lists.lengths_C[asked.searched_BS]
            scores_BN, positions_BN = self._scores.every(asked)
            evidence_BN = np.zeros((len(part), len(self.lists) + 1), bool)
            if asked.evidence is not None:
                np.put_along_axis(evidence_BN, asked.evidence[0], True, axis=1)
            yield Candidates(
                self.lists.item_ids_N[positions_BN],
                scores_BN,
                asked.searched_BS,
                np.cumsum(lengths_BS, axis=1) - lengths_BS,
                asked.log_p_BC,
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
