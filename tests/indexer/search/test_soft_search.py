from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.errors import IndexerError
from indexer.lists import cells as cells_module
from indexer.lists.code_lists import CodeLists
from indexer.search import config as config_module
from indexer.search import soft_search
from indexer.search.answers import Answers
from indexer.search.config import RANKED_ONLY, ExplorationConfig, SearchConfig
from indexer.search.query_scores import equal_quotas
from indexer.search.soft_search import SoftSearch
from indexer.search.whole_scores import WholeScores
from model.histories import History
from tests.indexer.stand_in import StandIn


def lists_of(model: StandIn) -> CodeLists:
    return CodeLists.build(
        model.item_ids_N, model.codes_NQ, model.vectors_ND, model.first_level_codes
    )


def histories_of(model: StandIn, count: int, seed: int, longest: int = 12) -> list[History]:
    rng = np.random.default_rng(seed)
    return [
        History(
            rng.choice(model.item_ids_N, n := int(rng.integers(0, longest + 1))).tolist(), [0] * n
        )
        for _ in range(count)
    ]


class WithEvidence(StandIn):
    """Some items are hot, some have a recency prior, and every user has neighbours, some of them
    unknown, that add to the scores of their items."""

    def hot_items(self, count: int) -> np.ndarray:
        return self.item_ids_N[::3][:count]

    def near(self, encoded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = (np.abs(encoded[:, :1]) * 1000).astype(int) + 2 * np.arange(7)
        near = self.item_ids_N[rows % len(self.item_ids_N)]
        near[:, -1] = -1
        for row in near:  # each of them once
            row[np.setdiff1d(np.arange(7), np.unique(row, return_index=True)[1])] = -1
        return near, (rows % 5).astype(np.float32)

    def prior(self) -> tuple[np.ndarray, np.ndarray]:
        rows = np.arange(0, len(self.item_ids_N), 4)[::-1]
        features = np.stack([rows % 3, rows % 7], axis=1).astype(np.float32)
        ids = np.append(self.item_ids_N[rows], 10**12)
        return ids, np.vstack([features, np.ones((1, 2), np.float32)])

    def prior_weights(self, encoded: np.ndarray) -> np.ndarray:
        return np.stack([encoded[:, 0], np.full(len(encoded), 0.3)], axis=1).astype(np.float32)


def every_score(model: StandIn, history: History) -> tuple[np.ndarray, set[int]]:
    """The definition, read plainly: s(u, i, c) of every item, and the ids of the neighbours."""
    encoded = model.encode([history], np.zeros(1, np.int64))
    users_CD = model.user_vectors(encoded, np.arange(model.first_level_codes)[None])[0]
    prior = dict(zip(model.prior()[0].tolist(), model.prior()[1], strict=True))
    near_ids, near_adds = (x[0].tolist() for x in model.near(encoded))
    adds = dict(zip(near_ids, near_adds, strict=True))
    weights = model.prior_weights(encoded)[0].astype(np.float64)
    scores = []
    for item, code, vector in zip(
        model.item_ids_N.tolist(), model.codes_NQ[:, 0], model.vectors_ND, strict=True
    ):
        score = users_CD[code].astype(np.float64) @ vector.astype(np.float64)
        if item in prior:
            score += weights @ prior[item]
        scores.append(score + adds.get(item, 0.0))
    return np.array(scores), set(near_ids) - {-1}


def brute_force(model: StandIn, history: History, k: int, config: SearchConfig):
    """What must be answered, (score, id) best first, and the codes that are searched."""
    encoded = model.encode([history], np.zeros(1, np.int64))
    log_p = model.log_interests(encoded)[0].astype(np.float64) / config.temperature
    members = {c: np.flatnonzero(model.codes_NQ[:, 0] == c) for c in range(model.first_level_codes)}
    scores, anyway = every_score(model, history)
    anyway |= set(model.hot_items(config.evidence).tolist())
    seen = set(history.items)

    def ranked(rows):
        found = ((float(scores[n]), int(model.item_ids_N[n])) for n in rows)
        return sorted(((s, i) for s, i in found if i not in seen), key=lambda x: (-x[0], x[1]))

    candidates: dict[int, list[tuple[float, int]]] = {}
    for c in (c for c in np.argsort(-log_p, kind="stable") if len(members[c])):
        if len(candidates) >= config.codes and sum(map(len, candidates.values())) >= k:
            break
        candidates[int(c)] = ranked(members[c])
    searched = list(candidates)
    if config.quota == "equal":
        room = np.array([len(v) for v in candidates.values()])
        given_S = equal_quotas(room[None], k)[0]
        candidates = {c: v[:q] for (c, v), q in zip(candidates.items(), given_S, strict=True)}
    elif config.evidence:
        beside = [n for n, c in enumerate(model.codes_NQ[:, 0]) if int(c) not in candidates]
        candidates[-1] = ranked(n for n in beside if int(model.item_ids_N[n]) in anyway)
    best = sorted((x for v in candidates.values() for x in v), key=lambda x: (-x[0], x[1]))
    return best[:k], searched


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    items=st.integers(1, 120),
    codes=st.integers(1, 12),
    searched=st.integers(1, 14),
    k=st.integers(1, 60),
    quota=st.sampled_from(["joint", "equal"]),
    temperature=st.sampled_from([0.5, 1.0, 2.0]),
    kind=st.sampled_from([StandIn, WithEvidence]),
    evidence=st.sampled_from([0, 9]),
    grown=st.booleans(),
)
def test_soft_search_equals_brute_force(
    seed, items, codes, searched, k, quota, temperature, kind, evidence, grown
):
    model = kind.make(items, codes, seed=seed)
    config = SearchConfig(searched, quota, temperature, evidence, explore=RANKED_ONLY)
    lists = lists_of(model)
    if grown:
        lists = changed(lists, model, np.random.default_rng(seed))
    histories = histories_of(model, 5, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(soft_search, "CHUNK", 2)
        answers = SoftSearch(model, lists, config).search(histories, np.zeros(5, np.int64), k)
    assert answers.items_BK.shape == (5, k)
    for b, history in enumerate(histories):
        expected, visited = brute_force(model, history, k, config)
        count = len(expected)
        found = answers.items_BK[b, :count].tolist()
        np.testing.assert_allclose(
            answers.scores_BK[b, :count], [s for s, _ in expected], rtol=1e-4, atol=1e-4
        )
        assert (answers.items_BK[b, count:] == -1).all()
        assert len(set(found)) == count and not set(found) & set(history.items)
        np.testing.assert_array_equal(answers.searched_BS[b][answers.searched_BS[b] >= 0], visited)
        of_searched = np.isin(answers.item_codes_BK[b, :count], visited)
        assert answers.quota_BS[b].sum() == of_searched.sum()
        if len({round(s, 3) for s, _ in expected}) == count and quota == "joint":
            assert set(found) == {i for _, i in expected}  # no ties that rounding could turn


def assert_equal(a: Answers, b: Answers) -> None:
    for name, value in vars(a).items():
        # the model's own sums are rounded differently in a batch
        np.testing.assert_allclose(getattr(b, name), value, rtol=1e-4, atol=1e-5, err_msg=name)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    items=st.integers(1, 120),
    codes=st.integers(1, 12),
    searched=st.integers(1, 14),
    k=st.integers(1, 60),
    quota=st.sampled_from(["joint", "joint", "equal"]),
    kind=st.sampled_from([StandIn, WithEvidence]),
    explore=st.sampled_from([0.0, 0.1, 0.6]),
    left_out=st.sampled_from(["history", "nothing", "much"]),
)
def test_a_query_alone_is_answered_as_in_a_batch(
    seed, items, codes, searched, k, quota, kind, explore, left_out
):
    model = kind.make(items, codes, seed=seed)
    config = SearchConfig(
        searched, quota, evidence=9, explore=ExplorationConfig(explore, explore / 2)
    )
    rng = np.random.default_rng(seed)
    lists = changed(lists_of(model), model, rng) if rng.random() < 0.5 else lists_of(model)
    listed = rng.integers(0, 2, len(lists.item_ids_N)) * 2**60
    search = SoftSearch(model, lists, config, listed)
    histories = histories_of(model, 3, seed)
    leave = {"history": True, "nothing": False, "much": [[*model.item_ids_N[: items // 2], 10**9]]}
    leave_all = leave | {"much": leave["much"] * 3}
    together = search.search(histories, np.zeros(3), k, exclude=leave_all[left_out])
    for b, history in enumerate(histories):
        alone = search.search([history], np.zeros(1), k, exclude=leave[left_out])
        own = replace(
            together, **{x.name: getattr(together, x.name)[b : b + 1] for x in fields(together)}
        )
        width = alone.searched_BS.shape[1]  # the batch may need more columns
        names = ("searched_BS", "probabilities_BS", "quota_BS")
        own = replace(own, **{name: getattr(own, name)[:, :width] for name in names})
        assert_equal(alone, own)


def changed(lists: CodeLists, model: StandIn, rng: np.random.Generator) -> CodeLists:
    """Lists after some items moved, so that rows are gone; at last every item is back."""
    for _ in range(rng.integers(1, 4)):
        some = rng.choice(len(model.item_ids_N), rng.integers(0, len(model.item_ids_N)))
        some = np.unique(some)
        codes = rng.integers(0, model.first_level_codes, (len(some), 2))
        lists = lists.with_items(model.item_ids_N[some], codes, model.vectors_ND[some])
    moved = lists.locate(model.item_ids_N)[0] != model.codes_NQ[:, 0]
    return lists.with_items(model.item_ids_N[moved], model.codes_NQ[moved], model.vectors_ND[moved])


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    items=st.integers(1, 200),
    codes=st.integers(1, 6),
    queries=st.integers(1, 3),
    quota=st.sampled_from(["joint", "equal"]),
    kind=st.sampled_from([StandIn, WithEvidence]),
)
def test_changed_lists_answer_as_those_built_from_scratch(seed, items, codes, queries, quota, kind):
    model = kind.make(items, codes, seed=seed)
    fresh, rng = lists_of(model), np.random.default_rng(seed)
    lists = changed(fresh, model, rng)
    np.testing.assert_array_equal(lists.sizes_C, fresh.sizes_C)
    assert len(lists) == len(fresh) == items
    histories = histories_of(model, queries, seed)
    config = SearchConfig(2, quota, evidence=9, explore=ExplorationConfig(0.1, 0.3))
    found, expected = (
        SoftSearch(model, one, replace(config, explore=RANKED_ONLY)).search(
            histories, np.zeros(queries), 20
        )
        for one in (lists, fresh)
    )
    young = np.full(len(lists.item_ids_N), 2**60)
    drawn = SoftSearch(model, lists, config, young).search(histories, np.zeros(queries), 20)
    np.testing.assert_array_equal(found.searched_BS, expected.searched_BS)
    np.testing.assert_array_equal(found.quota_BS, expected.quota_BS)
    np.testing.assert_allclose(found.scores_BK, expected.scores_BK, rtol=1e-4, atol=1e-5)
    assert [set(row) for row in found.items_BK] == [set(row) for row in expected.items_BK]
    for b, history in enumerate(histories):
        answer = drawn.items_BK[b][drawn.items_BK[b] >= 0]
        assert len(np.unique(answer)) == len(answer) == min(20, items - len(set(history.items)))
        assert not set(answer.tolist()) & set(history.items)
        codes_found = fresh.locate(answer)[0]
        np.testing.assert_array_equal(codes_found, drawn.item_codes_BK[b, : len(answer)])


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    items=st.integers(60, 400),
    codes=st.integers(1, 8),
    most=st.integers(1, 300),
    k=st.sampled_from([1, 20, 400]),
    kind=st.sampled_from([StandIn, WithEvidence]),
    grown=st.booleans(),
)
def test_no_query_scores_more_of_the_catalogue_than_it_may(
    seed, items, codes, most, k, kind, grown
):
    """But for one cell, and for what k answers need: then the best cells, in order."""
    model = kind.make(items, codes, seed=seed)
    histories = histories_of(model, 4, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells_module, "SHORT", 16)
        patch.setattr(config_module, "LEAST_SCORED", most)
        lists = lists_of(model)
        if grown:
            lists = changed(lists, model, np.random.default_rng(seed))
        config = SearchConfig(3, evidence=9, explore=RANKED_ONLY, scored_share=1e-9)
        found = SoftSearch(model, lists, config).search(histories, np.zeros(4), k)
        whole = SoftSearch(model, lists, replace(config, scored_share=1.0)).search(
            histories, np.zeros(4), k
        )
    blocks = [rows for one in lists.lists for rows in one.blocks]
    spare = max(int(np.diff(rows.starts).max(initial=0)) for rows in blocks)  # one cell
    gone = len(lists.item_ids_N) - len(lists)  # they answer nothing, and cost as much
    np.testing.assert_array_equal(found.searched_BS, whole.searched_BS)
    for b, history in enumerate(histories):
        answer = found.items_BK[b][found.items_BK[b] >= 0].tolist()
        assert len(answer) == min(k, items - len(set(history.items)))
        assert found.scored_B[b] <= max(most, k + len(history.items) + 9 + 7 + gone) + spare
        scores = dict(zip(model.item_ids_N.tolist(), every_score(model, history)[0], strict=True))
        np.testing.assert_allclose(
            found.scores_BK[b, : len(answer)], [scores[i] for i in answer], rtol=1e-4, atol=1e-4
        )
        if found.scored_B[b] == whole.scored_B[b]:
            assert answer == whole.items_BK[b][: len(answer)].tolist()


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    items=st.integers(1, 400),
    share=st.sampled_from([1e-9, 1.0]),
    evidence=st.sampled_from([0, 9]),
    kind=st.sampled_from([StandIn, WithEvidence]),
    grown=st.booleans(),
)
def test_queries_that_are_scored_at_once_are_answered_as_each_of_them_alone(
    seed, items, share, evidence, kind, grown
):
    model = kind.make(items, 8, seed=seed)
    # to whom nothing is near, all is alike: which of them answer is then left open
    histories = [h for h in histories_of(model, 8, seed) if h.items]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells_module, "SHORT", 16)
        patch.setattr(config_module, "LEAST_SCORED", 40)
        lists = lists_of(model)
        if grown:
            lists = changed(lists, model, np.random.default_rng(seed))
        config = SearchConfig(3, evidence=evidence, scored_share=share)
        search = SoftSearch(model, lists, config)
        at_once = search.search(histories, np.zeros(len(histories)), 20)
        patch.setattr(WholeScores, "suits", lambda self, queries: False)
        alone = search.search(histories, np.zeros(len(histories)), 20)
    for field in fields(at_once):
        one, other = getattr(at_once, field.name), getattr(alone, field.name)
        if one.dtype.kind == "f":
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
        else:
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("removed", [0.0, 0.4])
@pytest.mark.parametrize("searched", [5, 8])
def test_without_a_bound_the_lists_are_searched_whole(
    monkeypatch: pytest.MonkeyPatch, removed: float, searched: int
) -> None:
    """Also with evidence beside them, and rows of items that are gone."""
    monkeypatch.setattr(config_module, "LEAST_SCORED", 1)
    model = WithEvidence.make(items=400, codes=8)
    gone = np.random.default_rng(0).random(400) < removed
    lists = lists_of(model).without(model.item_ids_N[gone])
    config = SearchConfig(searched, evidence=100, explore=RANKED_ONLY, scored_share=1.0)
    histories = histories_of(model, 6, 1)
    answers = SoftSearch(model, lists, config).search(histories, np.zeros(6), 20)
    for b, codes in enumerate(answers.searched_BS):
        assert answers.scored_B[b] >= lists.lengths_C[codes[codes >= 0]].sum()


def test_the_bound_is_of_rows_also_of_those_that_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_module, "LEAST_SCORED", 150)
    model = StandIn.make(items=400, codes=4)
    lists = lists_of(model).without(model.item_ids_N[:-140])
    assert lists.lengths_C.sum() > 150 >= len(lists)
    config = SearchConfig(4, evidence=0, explore=RANKED_ONLY)
    answers = SoftSearch(model, lists, config).search([History([], [])], np.zeros(1), 5)
    assert answers.scored_B[0] <= 150  # what is gone costs as much, and is left out where it can be
    assert (answers.items_BK[0] >= 0).all()


def test_every_item_says_which_code_brought_it_and_with_which_probability():
    model = StandIn.make(300, 10)
    answers = SoftSearch(model, lists_of(model), SearchConfig(4)).search(
        histories_of(model, 6, 1), np.zeros(6, np.int64), 20
    )
    code_of = dict(zip(model.item_ids_N.tolist(), model.codes_NQ[:, 0].tolist(), strict=True))
    for b in range(6):
        p = dict(zip(answers.searched_BS[b], answers.probabilities_BS[b], strict=True))
        for item, code, log_p in zip(
            answers.items_BK[b],
            answers.item_codes_BK[b],
            answers.item_log_probabilities_BK[b],
            strict=True,
        ):
            assert code == code_of[item]
            assert np.exp(log_p) == pytest.approx(p[code], rel=1e-5)


def test_further_codes_are_visited_until_k_items_are_found():
    model = StandIn.make(100, 20)
    search = SoftSearch(model, lists_of(model), SearchConfig(codes=1))
    answers = search.search([History([], [])], np.zeros(1, np.int64), 60)
    assert (answers.items_BK >= 0).all()
    assert (answers.searched_BS >= 0).sum() > 1
    assert (np.diff(answers.probabilities_BS[0]) <= 0).all()


def test_all_codes_searched_is_the_exhaustive_ranking():
    model = StandIn.make(150, 9)
    search = SoftSearch(model, lists_of(model))
    answers = search.search([History([int(model.item_ids_N[3])], [0])], np.zeros(1), 500, codes=9)
    found = answers.items_BK[0][answers.items_BK[0] >= 0]
    assert set(found.tolist()) == set(model.item_ids_N.tolist()) - {int(model.item_ids_N[3])}


def test_items_to_leave_out_can_be_given_or_kept():
    model = StandIn.make(50, 4)
    search = SoftSearch(model, lists_of(model))
    ids = model.item_ids_N.tolist()
    history = History(ids[:5], [0] * 5)
    with_history = search.search([history], np.zeros(1), 50, exclude=False)
    assert set(with_history.items_BK[0].tolist()) == set(ids)
    given_items = search.search([history], np.zeros(1), 50, exclude=[ids[:40] + [10**12]])
    assert set(given_items.items_BK[0].tolist()) == {-1, *ids[40:]}


def test_an_empty_index_and_an_empty_batch_are_answered_with_nothing():
    model = StandIn.make(5, 3)
    empty = CodeLists.build(
        np.empty(0, np.int64), np.empty((0, 3), int), np.empty((0, model.dimension), np.float32), 3
    )
    answers = SoftSearch(model, empty).search([History([], [])], np.zeros(1), 4)
    assert answers.items_BK.tolist() == [[-1] * 4]
    assert SoftSearch(model, lists_of(model)).search([], np.empty(0), 4).items_BK.shape == (0, 4)


def test_lists_and_model_of_different_versions_are_refused():
    with pytest.raises(IndexerError, match="different versions"):
        SoftSearch(StandIn.make(50, 4), lists_of(StandIn.make(50, 5)))


@pytest.mark.parametrize("k, codes", [(0, 4), (5, 0), (-1, 4)])
def test_a_query_for_nothing_is_refused(k, codes):
    model = StandIn.make(50, 4)
    with pytest.raises(IndexerError, match="at least 1"):
        SoftSearch(model, lists_of(model)).search([History([], [])], np.zeros(1), k, codes)


def test_a_model_that_answers_nan_is_an_error_not_an_answer():
    model = StandIn.make(50, 4)
    search = SoftSearch(model, lists_of(model))
    model.centroids_CD = model.centroids_CD * np.float32("nan")
    with pytest.raises(IndexerError, match="NaN"):
        search.search([History([], [])], np.zeros(1), 5)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=12), st.integers(1, 60))
def test_equal_quotas_give_all_places_and_never_more_than_a_list_holds(room, k):
    given_S = equal_quotas(np.array([room, room]), k)[1]
    assert given_S.sum() == min(k, sum(room))
    assert (given_S <= room).all() and (given_S >= 0).all()
    open_S = given_S[given_S < room]  # as many places each, but for the rest of a division
    assert not len(open_S) or given_S.max() <= open_S.min() + 1


def test_a_quota_that_is_none_any_more_is_refused_with_those_there_are():
    with pytest.raises(IndexerError, match="'proportional': use joint, .* or equal"):
        SearchConfig(quota="proportional")


@given(st.integers(0, 1000), st.integers(1, 9))
@settings(max_examples=25, deadline=None)
def test_the_candidates_rank_items_as_the_search_does(seed: int, codes: int):
    model = StandIn.make(items=90, codes=6, seed=seed)
    search = SoftSearch(model, lists_of(model), SearchConfig(temperature=1.3))
    histories = histories_of(model, 5, seed)
    now = np.zeros(5, np.int64)
    [everything] = search.candidates(histories, now)
    answers = search.search(histories, now, 7, codes=codes)
    in_use = int((search.lists.sizes_C > 0).sum())
    assert everything.searched_BS.shape == (5, in_use)
    for b in range(5):
        assert sorted(everything.items_BN[b]) == model.item_ids_N.tolist()
        searched = answers.searched_BS[b][answers.searched_BS[b] >= 0]
        assert np.array_equal(everything.searched_BS[b, : len(searched)], searched)
        bounds = [*everything.starts_BS[b].tolist(), len(model.item_ids_N)]
        for s, code in enumerate(everything.searched_BS[b].tolist()):
            list_of_code = search.lists.lists[code].item_ids
            assert np.array_equal(everything.items_BN[b, bounds[s] : bounds[s + 1]], list_of_code)
        part = slice(0, bounds[len(searched)])
        order = np.lexsort((everything.items_BN[b, part], -everything.scores_BN[b, part]))[:7]
        assert np.array_equal(everything.items_BN[b, order], answers.items_BK[b])
        assert np.allclose(everything.scores_BN[b, order], answers.scores_BK[b], atol=1e-5)
        assert np.exp(everything.log_p_BC[b]).sum() == pytest.approx(1, abs=1e-5)
