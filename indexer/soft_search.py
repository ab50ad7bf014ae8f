"""Soft search: the answer of the most probable codes, each asked with its own user vector.

For a history the interest head gives log p(c|u) of every first-level code c. The K most probable
codes that hold items are searched, each with the user vector of that code (SPARC, arXiv
2508.09090), and their lists are merged. An item scores s(u, i, c), the inner product, where the
model was trained so that it can be compared across codes; else log p(c|u) + s(u, i, c), or
log p(c|u) + log p(i|u, c) where the model asks for lists normalised by their softmax.
Where the searched lists hold fewer than k items that may be answered, further codes follow in
order of probability, so an answer is short only where the catalogue is.
With joint quota a few items are scored whatever their code: see `indexer.evidence`. The last places
of an answer can be reserved for exploration: see `indexer.exploration`.

How many places a code gets is the quota policy: "joint" ranks all candidates by score;
"proportional" gives each code its share of k by probability (largest remainder, never more than
it holds); "equal" gives every searched code the same share.

But for the reserved places the result equals brute force over the searched lists. Shapes: B
queries, K results, R reserved places, S searched codes, C codes, D dimension, W candidates of a
query, N items in the lists.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from indexer.answers import Answers, Candidates, joined, padded
from indexer.errors import IndexerError
from indexer.evidence import Evidence
from indexer.exploration import Config as ExplorationConfig
from indexer.exploration import Reserve
from indexer.lists import CodeLists
from indexer.quota import quotas

if TYPE_CHECKING:  # torch is needed by the model only
    from model.histories import History
    from model.retrieval_model import RetrievalModel

Quota = Literal["joint", "proportional", "equal"]
CHUNK = 256
"""Queries scored together; bounds the score matrix."""
LONG_LIST = 2048
"""Lists longer than this contribute their best k only, so that the score matrix stays narrow."""

LEAST_LOG_P = np.float32(-1e30)
"""Stands for log 0, so that a code of probability 0 still comes before one without items."""


@dataclass(frozen=True)
class Config:
    """How a query is answered.

    Attributes:
        codes: how many codes are searched for a query (K of the paper); docs/RESULTS.md has the
            curve of recall against it.
        quota: "joint", "proportional" or "equal", see the module.
        temperature: of p(c|u): above 1 explores more codes, below 1 fewer; 1 is the head as learnt.
        evidence: with joint quota so many items of the greatest recency prior are scored, too,
            and the neighbours of the history, whatever their code; 0: the lists alone.
        explore: places that are reserved for what the ranking would not show.
    """

    codes: int = 9
    quota: Quota = "joint"
    temperature: float = 1.0
    evidence: int = 256
    explore: ExplorationConfig = field(default_factory=ExplorationConfig)

    def __post_init__(self) -> None:
        if self.codes < 1 or not self.temperature > 0:
            raise IndexerError(
                f"codes is {self.codes} and temperature {self.temperature}: both must be positive"
            )
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
        config: Config | None = None,
        listed_ms_N: NDArray[np.int64] | None = None,
    ) -> None:
        if (len(lists.lists), lists.dimension) != (model.first_level_codes, model.dimension):
            raise IndexerError(
                f"lists of {len(lists.lists)} codes and dimension {lists.dimension}, model of "
                f"{model.first_level_codes} and {model.dimension}: they are of different versions"
            )
        self.model = model
        self.lists = lists
        self.config = config or Config()
        self._normalise = bool(getattr(model, "normalise_lists", False))
        self._weigh_codes = bool(getattr(model, "weigh_codes", True))
        self._positions = np.arange(len(lists), dtype=np.int32)
        self._evidence: Evidence | None = None
        # only scores that compare across codes may be ranked beside those of other lists
        if self.config.evidence and self.config.quota == "joint" and not self._weigh_codes:
            self._evidence = Evidence(model, lists, self.config.evidence)
        self._reserve = Reserve(lists, self.config.explore, listed_ms_N)

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
        asked = self._ask(histories, now_ms, k, codes, unwanted)
        searched_BS, log_p_BS, hits = asked.searched_BS, asked.log_p_BS, asked.hits
        room_BS = np.where(searched_BS >= 0, self.lists.sizes_C[searched_BS], 0)
        np.subtract.at(room_BS, (hits.query, hits.slot), 1)
        widths_BS = self._widths(searched_BS, log_p_BS, room_BS, k)
        scores_BW, positions_BW = self._score(
            searched_BS, log_p_BS, asked.users_BSD, hits, widths_BS
        )
        if self._evidence is not None and asked.evidence is not None:
            positions_BE, codes_BE, users_BCD = asked.evidence
            scores_BE = self._evidence.scores(positions_BE, codes_BE, users_BCD)
            searched_BC = np.zeros((len(scores_BE), len(self.lists.lists) + 1), bool)
            np.put_along_axis(searched_BC, searched_BS, True, axis=1)  # -1: the last column
            searched_BC[:, -1] = False
            scores_BE[np.take_along_axis(searched_BC, codes_BE, axis=1)] = -np.inf
            gone = asked.everywhere
            at = self.lists.starts_C[gone.code] + gone.row
            self._evidence.leave_out(scores_BE, positions_BE, gone.query, at)
            scores_BW = np.hstack([scores_BW, scores_BE])
            positions_BW = np.hstack([positions_BW, positions_BE.clip(min=0).astype(np.int32)])
        found = self._ranked(scores_BW, positions_BW, asked.log_p_BC, searched_BS, log_p_BS, k)
        if sum(self.config.explore.places(k)):
            found = self._explored(found, histories, now_ms, asked, k)
        return found

    def _explored(
        self,
        found: Answers,
        histories: Sequence[History],
        now_ms: NDArray[np.int64],
        asked: _Asked,
        k: int,
    ) -> Answers:
        """The answers with their reserved places drawn.

        What is drawn has no rank, so it carries the score of the last item that has one. An answer
        that is short has no reserved places: it holds the catalogue already.
        """
        starts = self.lists.starts_C
        kept = k - sum(self.config.explore.places(k))
        codes, rows = self.lists.locate(found.items_BK[:, :kept].ravel())
        kept_BK = (starts[codes] + rows).reshape(len(histories), kept)
        gone = asked.everywhere
        bounds = np.searchsorted(gone.query, np.arange(len(histories) + 1))
        unwanted = starts[gone.code] + gone.row
        taken = [
            np.union1d(kept_BK[b], unwanted[bounds[b] : bounds[b + 1]])
            for b in range(len(histories))
        ]
        drawn = self._reserve.draw(histories, now_ms, asked.log_p_BC, taken, k)
        there_BR = (drawn.positions_BR >= 0) & (found.items_BK[:, -1:] >= 0)
        codes_BR = np.searchsorted(starts, drawn.positions_BR, side="right") - 1
        log_p_BR = np.take_along_axis(asked.log_p_BC, codes_BR.clip(min=0), axis=1)
        ids_BR = self.lists.item_ids_N[drawn.positions_BR]
        last_B1 = found.scores_BK[:, kept - 1 : kept] if kept else np.zeros((len(histories), 1))
        last_BR = np.broadcast_to(last_B1, ids_BR.shape).astype(np.float32)
        chosen_BK = np.arange(k + ids_BR.shape[1])[None].repeat(len(histories), 0)
        chosen_BK = np.delete(chosen_BK, np.s_[kept:k], axis=1)
        for b in np.flatnonzero(~there_BR.all(axis=1)).tolist():  # ranked items fill the rest
            others = np.flatnonzero(~np.isin(found.items_BK[b, kept:], ids_BR[b][there_BR[b]]))
            missing = np.count_nonzero(~there_BR[b])
            tail = [*(kept + others[:missing]), *(k + np.flatnonzero(there_BR[b]))]
            chosen_BK[b, kept:] = tail
            last_BR[b] = found.scores_BK[b, kept + others[missing - 1]]

        def mixed(ranked_BK: NDArray[Any], drawn_BR: NDArray[Any]) -> NDArray[Any]:
            return np.take_along_axis(np.hstack([ranked_BK, drawn_BR]), chosen_BK, axis=1)

        item_codes_BK = mixed(found.item_codes_BK, codes_BR)
        return replace(
            found,
            items_BK=mixed(found.items_BK, ids_BR),
            scores_BK=mixed(found.scores_BK, last_BR),
            item_codes_BK=item_codes_BK,
            item_log_probabilities_BK=mixed(found.item_log_probabilities_BK, log_p_BR),
            quota_BS=_places(found.searched_BS, item_codes_BK),
            propensities_BK=mixed(found.propensities_BK, drawn.propensities_BR),
        )

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
            asked = self._ask(part, now_ms[a : a + CHUNK], 1, every, unwanted)
            sizes_BS = self.lists.sizes_C[asked.searched_BS]
            whole_BS = np.full_like(asked.searched_BS, -1)
            scores_BN, positions_BN = self._score(
                asked.searched_BS, asked.log_p_BS, asked.users_BSD, asked.hits, whole_BS
            )
            evidence_BN = np.zeros((len(part), len(self.lists) + 1), bool)
            if asked.evidence is not None:
                np.put_along_axis(evidence_BN, asked.evidence[0], True, axis=1)
            yield Candidates(
                self.lists.item_ids_N[positions_BN],
                scores_BN,
                asked.searched_BS,
                np.cumsum(sizes_BS, axis=1) - sizes_BS,
                asked.log_p_BC,
                np.take_along_axis(evidence_BN, positions_BN.astype(np.int64), axis=1),
            )

    def _ask(
        self,
        histories: Sequence[History],
        now_ms: NDArray[np.int64],
        k: int,
        codes: int,
        unwanted: Sequence[Collection[int]],
    ) -> _Asked:
        """What the model says of some queries: codes, their probabilities, and user vectors."""
        encoded = self.model.encode(histories, now_ms)
        log_p_BC = self._log_interests(encoded)
        hits = self._locate(unwanted)
        searched_BS = self._choose(log_p_BC, hits, k, codes)
        rows_B1 = np.arange(len(histories))[:, None]
        valid_BS = searched_BS >= 0
        log_p_BS = np.where(valid_BS, log_p_BC[rows_B1, searched_BS], -np.inf)
        evidence = None
        if self._evidence is None:
            users_BSD = self.model.user_vectors(encoded, np.where(valid_BS, searched_BS, 0))
        else:
            every_BC = np.broadcast_to(np.arange(log_p_BC.shape[1]), log_p_BC.shape)
            users_BCD = self.model.user_vectors(encoded, every_BC)
            users_BSD = users_BCD[rows_B1, searched_BS]
            evidence = (*self._evidence.positions(encoded), users_BCD)
        if not np.isfinite(users_BSD).all():
            raise IndexerError("the model answers user vectors that are not finite")
        slots = hits.in_slots(searched_BS)
        return _Asked(log_p_BC, searched_BS, log_p_BS, users_BSD, slots, hits, evidence)

    def _log_interests(self, encoded: Any) -> NDArray[np.float32]:
        log_p_BC = self.model.log_interests(encoded)
        if self.config.temperature != 1.0:
            log_p_BC = log_p_BC / np.float32(self.config.temperature)
            log_p_BC = log_p_BC - _log_sum_exp(log_p_BC)
        if np.isnan(log_p_BC).any():
            raise IndexerError("the model answers interest probabilities that are NaN")
        return np.maximum(log_p_BC, LEAST_LOG_P)

    def _locate(self, unwanted: Sequence[Collection[int]]) -> _Hits:
        """The unwanted items that are in some list, each once."""
        counts = [len(items) for items in unwanted]
        query = np.repeat(np.arange(len(unwanted)), counts)
        items = np.fromiter((i for some in unwanted for i in some), np.int64, sum(counts))
        code, row = self.lists.locate(items)
        found = np.unique(np.stack([query, code, row])[:, code >= 0], axis=1)
        return _Hits(found[0], found[1], found[2], np.full(found.shape[1], -1))

    def _choose(
        self, log_p_BC: NDArray[np.float32], hits: _Hits, k: int, codes: int
    ) -> NDArray[np.int64]:
        """The codes to search (B, S), most probable first, as many more as k answers need."""
        room_BC = np.broadcast_to(self.lists.sizes_C, log_p_BC.shape).copy()
        np.subtract.at(room_BC, (hits.query, hits.code), 1)
        filled = np.where(self.lists.sizes_C > 0, log_p_BC, -np.inf)
        order_BC = np.argsort(-filled, axis=1, kind="stable")
        sums_BC = np.cumsum(np.take_along_axis(room_BC, order_BC, axis=1), axis=1)
        needed_B = (sums_BC < k).sum(axis=1) + 1
        available = int((self.lists.sizes_C > 0).sum())
        counts_B = np.minimum(np.maximum(needed_B, codes), available)
        searched_BS = order_BC[:, : max(1, int(counts_B.max(initial=0)))]
        return np.where(np.arange(searched_BS.shape[1]) < counts_B[:, None], searched_BS, -1)

    def _widths(
        self,
        searched_BS: NDArray[np.int64],
        log_p_BS: NDArray[np.float32],
        room_BS: NDArray[np.int64],
        k: int,
    ) -> NDArray[np.int64]:
        """How many candidates each list contributes, -1 for the whole list."""
        if self.config.quota == "joint":
            sizes_BS = np.where(searched_BS >= 0, self.lists.sizes_C[searched_BS], 0)
            return np.where(sizes_BS > LONG_LIST, np.minimum(room_BS, k), -1)
        weights_BS = (
            np.exp(log_p_BS) if self.config.quota == "proportional" else np.ones_like(log_p_BS)
        )
        return quotas(weights_BS, room_BS, k)

    def _score(
        self,
        searched_BS: NDArray[np.int64],
        log_p_BS: NDArray[np.float32],
        users_BSD: NDArray[np.float32],
        hits: _Hits,
        cut_BS: NDArray[np.int64],
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Scores (B, W) of the candidates and their positions in the lists; -inf where unwanted."""
        S = searched_BS.shape[1]
        sizes_BS = np.where(searched_BS >= 0, self.lists.sizes_C[searched_BS], 0)
        widths_BS = np.where(cut_BS < 0, sizes_BS, cut_BS)
        starts_BS = np.cumsum(widths_BS, axis=1) - widths_BS
        W = max(1, int(widths_BS.sum(axis=1).max(initial=0)))
        scores_BW = np.full((len(searched_BS), W), -np.inf, np.float32)
        positions_BW = np.zeros((len(searched_BS), W), np.int32)
        flat = searched_BS.ravel()
        order = np.argsort(flat, kind="stable")
        users = users_BSD.reshape(-1, users_BSD.shape[-1])[order]
        prior_BS = log_p_BS if self._weigh_codes else np.zeros_like(log_p_BS)
        log_p, cut = prior_BS.ravel()[order, None], cut_BS.ravel()[order]
        bounds = np.searchsorted(flat[order], np.arange(len(self.lists.lists) + 1))
        queries, starts = (order // S).tolist(), starts_BS.ravel()[order].tolist()
        for code in np.unique(flat[flat >= 0]).tolist():
            here = slice(bounds[code], bounds[code + 1])
            first, size = self.lists.starts_C[code], self.lists.sizes_C[code]
            positions = self._positions[first : first + size]
            if (cut[here] < 0).all():
                for one, query, start in zip(
                    self._list_scores(code, users[here]) + log_p[here],
                    queries[here],
                    starts[here],
                    strict=True,
                ):
                    scores_BW[query, start : start + size] = one
                    positions_BW[query, start : start + size] = positions
                continue
            ranked = self._list_best(code, users[here], cut[here], hits, np.array(queries[here]))
            for (one, rows), p, query, start in zip(
                ranked, log_p[here, 0], queries[here], starts[here], strict=True
            ):
                scores_BW[query, start : start + len(rows)] = one + p
                positions_BW[query, start : start + len(rows)] = positions[rows]
        whole = cut_BS[hits.query, hits.slot] < 0
        query, slot, row = hits.query[whole], hits.slot[whole], hits.row[whole]
        scores_BW[query, starts_BS[query, slot] + row] = -np.inf
        return scores_BW, positions_BW

    def _list_scores(self, code: int, users: NDArray[np.float32]) -> NDArray[np.float32]:
        scores = self.lists.lists[code].scores(users)
        return scores - _log_sum_exp(scores) if self._normalise else scores

    def _list_best(
        self,
        code: int,
        users: NDArray[np.float32],
        counts: NDArray[np.int64],
        hits: _Hits,
        queries: NDArray[np.int64],
    ) -> list[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        """For each query of this code its `counts` best wanted items: scores and rows."""
        here = hits.code == code
        unwanted = {
            q: hits.row[here & (hits.query == q)] for q in np.unique(hits.query[here]).tolist()
        }
        none = np.empty(0, np.int64)
        if len(users) == 1 and not self._normalise:
            gone = unwanted.get(int(queries[0]), none)
            best, rows = self.lists.lists[code].best(users[0], int(counts[0]) + len(gone))
            wanted = ~np.isin(rows, gone)
            return [(best[wanted][: counts[0]], rows[wanted][: counts[0]])]
        scores = self._list_scores(code, users)
        ranked = []
        for one, query, count in zip(scores, queries.tolist(), counts.tolist(), strict=True):
            one[unwanted.get(query, none)] = -np.inf
            rows = np.argpartition(one, len(one) - count)[len(one) - count :] if count else none
            rows = rows[np.argsort(-one[rows], kind="stable")]
            ranked.append((one[rows], rows))
        return ranked

    def _ranked(
        self,
        scores_BW: NDArray[np.float32],
        positions_BW: NDArray[np.int32],
        log_p_BC: NDArray[np.float32],
        searched_BS: NDArray[np.int64],
        log_p_BS: NDArray[np.float32],
        k: int,
    ) -> Answers:
        W = scores_BW.shape[1]
        if k < W:
            best = np.argpartition(scores_BW, W - k, axis=1)[:, W - k :]
            scores_BW = np.take_along_axis(scores_BW, best, axis=1)
            positions_BW = np.take_along_axis(positions_BW, best, axis=1)
        ids_N = self.lists.item_ids_N if len(self.lists) else np.array([-1])
        items = ids_N[positions_BW]
        order = np.lexsort((items, -scores_BW), axis=1)
        scores = np.take_along_axis(scores_BW, order, axis=1)
        there = scores > -np.inf
        positions = np.take_along_axis(positions_BW, order, axis=1)
        codes = np.searchsorted(self.lists.starts_C, positions, side="right") - 1
        log_p = np.take_along_axis(log_p_BC, codes, axis=1)
        codes = np.where(there, codes, -1)
        return Answers(
            padded(np.where(there, np.take_along_axis(items, order, axis=1), -1), k, -1),
            padded(np.where(there, scores, np.float32(-np.inf)), k, -np.inf),
            padded(codes, k, -1),
            padded(np.where(there, log_p, np.float32(-np.inf)), k, -np.inf),
            searched_BS,
            np.exp(log_p_BS),
            _places(searched_BS, codes),
            np.ones((len(codes), k), np.float32),
        )


def _places(searched_BS: NDArray[np.int64], codes_BK: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many places of an answer each searched code fills."""
    quota_BS = np.stack([(codes_BK == s[:, None]).sum(axis=1) for s in searched_BS.T], axis=1)
    return np.where(searched_BS >= 0, quota_BS, 0)


@dataclass(frozen=True)
class _Asked:
    """Queries as the model sees them.

    `hits` are unwanted items in searched lists, `everywhere` those in any; `evidence` holds its
    positions and codes (B, E) and the user vectors of all codes (B, C, D).
    """

    log_p_BC: NDArray[np.float32]
    searched_BS: NDArray[np.int64]
    log_p_BS: NDArray[np.float32]
    users_BSD: NDArray[np.float32]
    hits: _Hits
    everywhere: _Hits
    evidence: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]] | None


@dataclass(frozen=True)
class _Hits:
    """Unwanted items that are in a list: (n,) query, code, row in the list, slot among searched."""

    query: NDArray[np.int64]
    code: NDArray[np.int64]
    row: NDArray[np.int64]
    slot: NDArray[np.int64]

    def in_slots(self, searched_BS: NDArray[np.int64]) -> _Hits:
        """Those whose code is searched, with its place in `searched_BS`."""
        same = searched_BS[self.query] == self.code[:, None]
        slot, found = same.argmax(axis=1), same.any(axis=1)
        return _Hits(self.query[found], self.code[found], self.row[found], slot[found])


def _log_sum_exp(x: NDArray[np.float32]) -> NDArray[np.float32]:
    top = x.max(axis=1, keepdims=True)
    total = np.exp(x - top).sum(axis=1, keepdims=True)
    return (top + np.log(total)).astype(np.float32)
