"""The indexes that `tests.benchmarks.search` compares, behind one face.

Each is built from the same items and answers (B, D) user vectors with (B, K) positions, -1 padded;
its knob trades recall for time. Positions are rows of `Clustered.vectors_ND`.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
from faiss.contrib.ivf_tools import add_preassigned, search_preassigned

from indexer.lists.code_lists import CodeLists
from indexer.search.answers import Answers
from indexer.search.config import RANKED_ONLY, SearchConfig
from indexer.search.soft_search import SoftSearch
from model.histories import History
from tests.benchmarks.clustered_items import Clustered, ClusteredModel

TRAINING_VECTORS = 64
"""Per list, to place the centroids of an IVF of faiss's own."""


class Searcher:
    """An index, its knob's values ascending, and how it takes new vectors for some items."""

    knobs: tuple[int, ...] = (1,)
    index: Any

    def __init__(self, made: Clustered) -> None:
        self.made = made

    def memory(self) -> int:
        """Bytes that the index holds."""
        return int(faiss.serialize_index(self.index).nbytes)

    def search(self, users_BD: np.ndarray, k: int, knob: int) -> np.ndarray:
        raise NotImplementedError

    def scored_share(self, users_BD: np.ndarray, k: int, knob: int) -> float | None:
        """Share of the items that are scored for an answer, on the mean; None: it does not say."""
        return None

    def renew(self, rows: np.ndarray, codes: np.ndarray, vectors: np.ndarray) -> None:
        """Items that are there get other codes and vectors; from then on searches find those."""
        raise NotImplementedError


class Exhaustive(Searcher):
    def __init__(self, made: Clustered) -> None:
        super().__init__(made)
        self.index = faiss.IndexFlatIP(made.vectors_ND.shape[1])
        self.index.add(made.vectors_ND)

    def search(self, users_BD: np.ndarray, k: int, knob: int) -> np.ndarray:
        return self.index.search(users_BD, k)[1]

    def renew(self, rows: np.ndarray, codes: np.ndarray, vectors: np.ndarray) -> None:
        self.index.remove_ids(rows)
        self.index.add(vectors)


class Hnsw(Searcher):
    """A graph takes no item back: what is renewed stays in it, struck out, until it is rebuilt."""

    knobs = (
        16,
        24,
        32,
        48,
        64,
        80,
        96,
        112,
        *range(128, 384, 16),
        *range(384, 1024, 32),
        *range(1024, 2049, 128),
    )

    def __init__(self, made: Clustered) -> None:
        super().__init__(made)
        self.index = faiss.IndexHNSWFlat(made.vectors_ND.shape[1], 16, faiss.METRIC_INNER_PRODUCT)
        self.index.add(made.vectors_ND)

    def search(self, users_BD: np.ndarray, k: int, knob: int) -> np.ndarray:
        return self.index.search(users_BD, k, params=faiss.SearchParametersHNSW(efSearch=knob))[1]

    def renew(self, rows: np.ndarray, codes: np.ndarray, vectors: np.ndarray) -> None:
        self.index.add(vectors)


class Ivf(Searcher):
    """Faiss's inverted file with centroids of its own."""

    knobs = (1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64, 96, 128, 192, 256)

    def __init__(self, made: Clustered) -> None:
        super().__init__(made)
        C, D = made.centroids_CD.shape
        self.quantizer = faiss.IndexFlatIP(D)
        self.index = self._empty(C, D)
        rng = np.random.default_rng(0)
        some = rng.choice(len(made.vectors_ND), min(len(made.vectors_ND), TRAINING_VECTORS * C))
        self.index.train(made.vectors_ND[some])
        self.index.add(made.vectors_ND)

    def _empty(self, C: int, D: int) -> Any:
        return faiss.IndexIVFFlat(self.quantizer, D, C, faiss.METRIC_INNER_PRODUCT)

    def search(self, users_BD: np.ndarray, k: int, knob: int) -> np.ndarray:
        return self.index.search(users_BD, k, params=faiss.SearchParametersIVF(nprobe=knob))[1]

    def renew(self, rows: np.ndarray, codes: np.ndarray, vectors: np.ndarray) -> None:
        self.index.remove_ids(rows)
        self.index.add_with_ids(vectors, rows)


class _Preassigned(Searcher):
    """Faiss's inverted lists under the learnt codes."""

    knobs = Ivf.knobs

    def __init__(self, made: Clustered) -> None:
        super().__init__(made)
        C, D = made.centroids_CD.shape
        self.quantizer = faiss.IndexFlatIP(D)
        self.quantizer.add(made.centroids_CD)
        self.index = self._index(C, D)
        add_preassigned(self.index, made.vectors_ND, made.codes_N.astype(np.int64))

    def _index(self, C: int, D: int) -> Any:
        index = faiss.IndexIVFFlat(self.quantizer, D, C, faiss.METRIC_INNER_PRODUCT)
        index.is_trained = True
        return index

    def _codes(self, users_BD: np.ndarray, knob: int) -> tuple[np.ndarray, np.ndarray]:
        return self.quantizer.search(users_BD, min(knob, self.index.nlist))

    def search(self, users_BD: np.ndarray, k: int, knob: int) -> np.ndarray:
        scores, codes = self._codes(users_BD, knob)
        self.index.nprobe = codes.shape[1]
        return search_preassigned(self.index, users_BD, k, codes, scores)[1]

    def renew(self, rows: np.ndarray, codes: np.ndarray, vectors: np.ndarray) -> None:
        self.index.remove_ids(rows)
        add_preassigned(self.index, vectors, codes.astype(np.int64), rows.astype(np.int64))


class PreassignedIvf(_Preassigned):
    pass


class TwoLevelLists(_Preassigned):
    """Cells of the first two codes; the sum of both codewords' scores chooses among them."""

    knobs = (32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096)
    first = 128
    """First-level codes whose cells are looked at."""

    def __init__(self, made: Clustered) -> None:
        Searcher.__init__(self, made)
        C, D = made.centroids_CD.shape
        self.levels = int(made.second_N.max()) + 1
        cells_N = made.codes_N.astype(np.int64) * self.levels + made.second_N
        counts = np.maximum(np.bincount(made.second_N, minlength=self.levels), 1)
        rest_ND = made.vectors_ND - made.centroids_CD[made.codes_N]
        self.second_SD = np.stack(
            [np.bincount(made.second_N, column, self.levels) / counts for column in rest_ND.T], 1
        ).astype(np.float32)
        self.quantizer = faiss.IndexFlatIP(D)
        self.quantizer.add(made.centroids_CD)
        self.index = self._index(C * self.levels, D)
        add_preassigned(self.index, made.vectors_ND, cells_N)

    def _codes(self, users_BD: np.ndarray, knob: int) -> tuple[np.ndarray, np.ndarray]:
        first_BK, codes_BK = self.quantizer.search(
            users_BD, min(self.first, len(self.made.centroids_CD))
        )
        scores_BM = first_BK[:, :, None] + (users_BD @ self.second_SD.T)[:, None]
        cells_BM = codes_BK[:, :, None] * self.levels + np.arange(self.levels)
        scores_BM, cells_BM = (x.reshape(len(users_BD), -1) for x in (scores_BM, cells_BM))
        knob = min(knob, scores_BM.shape[1])
        best = np.argpartition(scores_BM, scores_BM.shape[1] - knob, axis=1)[:, -knob:]
        chosen = [np.take_along_axis(x, best, axis=1) for x in (scores_BM, cells_BM)]
        return np.ascontiguousarray(chosen[0]), np.ascontiguousarray(chosen[1])

    def renew(self, rows: np.ndarray, codes: np.ndarray, vectors: np.ndarray) -> None:
        self.index.remove_ids(rows)
        cells = codes.astype(np.int64) * self.levels + self.made.second_N[rows]
        add_preassigned(self.index, vectors, cells, rows.astype(np.int64))


class QuantizedLists(_Preassigned):
    """Bytes for floats in the lists; the best few are scored again by their floats."""

    kept = 4
    """Candidates for each answer."""

    def _index(self, C: int, D: int) -> Any:
        index = faiss.IndexIVFScalarQuantizer(
            self.quantizer, D, C, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT, False
        )
        index.train(self.made.vectors_ND[:: max(1, len(self.made.vectors_ND) // 20_000)])
        return index

    def memory(self) -> int:
        return super().memory() + int(self.made.vectors_ND.nbytes)

    def search(self, users_BD: np.ndarray, k: int, knob: int) -> np.ndarray:
        found = super().search(users_BD, self.kept * k, knob)
        scores = np.einsum("bkd,bd->bk", self.made.vectors_ND[found], users_BD)
        scores[found < 0] = -np.inf
        best = np.argsort(-scores, axis=1)[:, :k]
        return np.take_along_axis(found, best, axis=1)


class CodeListsAlone(Searcher):
    """The product's lists under the choice of codes alone: what soft search costs at the least."""

    knobs = Ivf.knobs

    def __init__(self, made: Clustered) -> None:
        super().__init__(made)
        self.lists = self._build()

    def memory(self) -> int:
        lists = self.lists
        blocks = [block for one in lists.lists for block in one.blocks]
        rows = sum(block.item_ids.nbytes + block.vectors.nbytes for block in blocks)
        return int(rows + lists.item_ids_N.nbytes + lists.item_locations.nbytes)

    def _build(self) -> CodeLists:
        made = self.made
        return CodeLists.build(
            made.item_ids_N, made.codes_NQ, made.vectors_ND, len(made.centroids_CD)
        )

    def search(self, users_BD: np.ndarray, k: int, knob: int) -> np.ndarray:
        centroids_CD, lists = self.made.centroids_CD, self.lists.lists
        answers = np.full((len(users_BD), k), -1)
        for b, user_D in enumerate(users_BD):
            weights_C = centroids_CD @ user_D
            codes = np.argpartition(weights_C, -knob)[-knob:] if knob < len(weights_C) else ...
            chosen = np.arange(len(weights_C))[codes]
            blocks = [block for code in chosen for block in lists[code].blocks]
            scores = np.concatenate([block.vectors @ user_D for block in blocks])
            ids = np.concatenate([lists[code].present_ids for code in chosen])
            scores[ids < 0] = -np.inf
            count = min(k, len(ids))
            best = np.argpartition(scores, len(ids) - count)[len(ids) - count :]
            answers[b, :count] = ids[best] - 1
        return answers

    def renew(self, rows: np.ndarray, codes: np.ndarray, vectors: np.ndarray) -> None:
        codes_nQ = np.stack([codes, self.made.second_N[rows]], axis=1)
        self.lists = self.lists.with_items(self.made.item_ids_N[rows], codes_nQ, vectors)


class Soft(CodeListsAlone):
    """Soft search as it is served, evidence apart; the knob is the number of codes."""

    def __init__(self, made: Clustered) -> None:
        super().__init__(made)
        self._model: Any = ClusteredModel(made.centroids_CD)
        self._searches: dict[int, SoftSearch] = {}

    def search(self, users_BD: np.ndarray, k: int, knob: int) -> np.ndarray:
        answers = self._answers(users_BD, k, knob)
        return answers.items_BK - 1

    def scored_share(self, users_BD: np.ndarray, k: int, knob: int) -> float:
        scored_B = self._answers(users_BD, k, knob).scored_B
        return float(scored_B.mean() / len(self.lists))

    def _answers(self, users_BD: np.ndarray, k: int, knob: int) -> Answers:
        self._model.ask_for(users_BD)
        asked = [History([row], [0]) for row in range(len(users_BD))]
        search = self._searches.get(knob) or self._ready(knob)
        return search.search(asked, np.zeros(1), k, exclude=False)

    def _ready(self, knob: int) -> SoftSearch:
        config = SearchConfig(knob, evidence=0, explore=RANKED_ONLY)
        self._searches = {knob: SoftSearch(self._model, self.lists, config)}
        return self._searches[knob]

    def renew(self, rows: np.ndarray, codes: np.ndarray, vectors: np.ndarray) -> None:
        super().renew(rows, codes, vectors)
        for knob in tuple(self._searches):
            self._ready(knob)


SEARCHERS: dict[str, type[Searcher]] = {
    "soft search": Soft,
    "code lists alone": CodeListsAlone,
    "exhaustive": Exhaustive,
    "faiss hnsw": Hnsw,
    "faiss ivf": Ivf,
    "ivf, preassigned": PreassignedIvf,
    "two-level lists": TwoLevelLists,
    "quantized lists": QuantizedLists,
}
