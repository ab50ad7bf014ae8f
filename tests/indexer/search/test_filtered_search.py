"""Search among some of the items: as brute force over them has it, and full where they suffice."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.catalogue.filter import Filter
from indexer.catalogue.item_columns import ItemColumns
from indexer.lists import cells as cells_module
from indexer.lists.code_lists import CodeLists
from indexer.search import config as config_module
from indexer.search import soft_search
from indexer.search.answerable import Answerable
from indexer.search.config import RANKED_ONLY, ExplorationConfig, SearchConfig
from indexer.search.query_scores import equal_quotas
from indexer.search.soft_search import SoftSearch
from model.histories import History
from tests.indexer.made_columns import batch_of
from tests.indexer.search.test_soft_search import (
    WithEvidence,
    changed,
    every_score,
    histories_of,
    lists_of,
)
from tests.indexer.stand_in import StandIn

NOW = np.zeros(1, np.int64)


def brute_force(
    model: StandIn, history: History, passing: set[int], k: int, config: SearchConfig, reach: bool
) -> tuple[list[tuple[float, int]], list[int]]:
    """What must be answered, (score, id) best first, and the codes that are searched."""
    log_p = model.log_interests(model.encode([history], NOW))[0]
    scores, anyway = every_score(model, history)
    anyway |= set(model.hot_items(config.evidence).tolist())
    ids, codes = model.item_ids_N.tolist(), model.codes_NQ[:, 0].tolist()
    members: dict[int, list[int]] = {}
    for n, (item, code) in enumerate(zip(ids, codes, strict=True)):
        if item in passing:
            members.setdefault(code, []).append(n)

    def ranked(rows: list[int]) -> list[tuple[float, int]]:
        found = [(float(scores[n]), ids[n]) for n in rows if ids[n] not in history.items]
        return sorted(found, key=lambda x: (-x[0], x[1]))

    wanted = config.codes
    if config.quota == "joint" and passing:  # as many as hold as much as these of all items
        wanted = max(wanted, round(wanted * len(ids) / len(passing)))
    candidates: dict[int, list[tuple[float, int]]] = {}
    for code in np.argsort(-log_p, kind="stable").tolist():
        enough = len(candidates) >= wanted and sum(map(len, candidates.values())) >= k
        if code in members and (reach or not enough):
            candidates[code] = ranked(members[code])
    searched = list(candidates)
    if config.quota == "equal" and candidates:
        given_S = equal_quotas(np.array([[len(v) for v in candidates.values()]]), k)[0]
        candidates = {c: v[:q] for (c, v), q in zip(candidates.items(), given_S, strict=True)}
    elif config.evidence:
        beside = [n for c, rows in members.items() if c not in candidates for n in rows]
        candidates[-1] = ranked([n for n in beside if ids[n] in anyway])
    best = sorted((x for v in candidates.values() for x in v), key=lambda x: (-x[0], x[1]))
    return best[:k], searched


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    items=st.integers(1, 120),
    codes=st.integers(1, 12),
    searched=st.integers(1, 14),
    k=st.integers(1, 60),
    share=st.sampled_from([0.0, 0.05, 0.3, 0.6, 1.0]),
    quota=st.sampled_from(["joint", "equal"]),
    kind=st.sampled_from([StandIn, WithEvidence]),
    evidence=st.sampled_from([0, 9]),
    grown=st.booleans(),
    alone=st.booleans(),
)
def test_the_answer_is_what_brute_force_over_the_passing_items_gives(
    seed, items, codes, searched, k, share, quota, kind, evidence, grown, alone
):
    model, rng = kind.make(items, codes, seed=seed), np.random.default_rng(seed)
    config = SearchConfig(searched, quota, evidence=evidence, explore=RANKED_ONLY)
    lists = changed(lists_of(model), model, rng) if grown else lists_of(model)
    passing = set(model.item_ids_N[rng.random(items) < share].tolist())
    search = SoftSearch(model, lists, config)
    only = search.select(np.isin(lists.item_ids_N, list(passing)))
    assert len(only) == len(passing)
    histories = histories_of(model, 4, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(soft_search, "CHUNK", 1 if alone else 4)
        answers = search.search(histories, np.zeros(4, np.int64), k, only=only)
    for b, history in enumerate(histories):
        reach = quota == "joint" and not only.dense
        expected, visited = brute_force(model, history, passing, k, config, reach)
        count = len(expected)
        found = answers.items_BK[b, :count].tolist()
        np.testing.assert_allclose(
            answers.scores_BK[b, :count], [s for s, _ in expected], rtol=1e-4, atol=1e-4
        )
        assert len(set(found)) == count and set(found) <= passing - set(history.items)
        assert (answers.items_BK[b, count:] == -1).all()
        assert count == min(k, len(passing - set(history.items)))
        np.testing.assert_array_equal(answers.searched_BS[b][answers.searched_BS[b] >= 0], visited)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    most=st.integers(1, 80),
    k=st.integers(1, 40),
    share=st.sampled_from([0.1, 0.4, 0.8]),
    kind=st.sampled_from([StandIn, WithEvidence]),
    alone=st.booleans(),
)
def test_where_not_all_can_be_scored_the_answer_is_full_and_of_the_best_cells(
    seed, most, k, share, kind, alone
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells_module, "SHORT", 4)
        patch.setattr(config_module, "LEAST_SCORED", most)
        patch.setattr(soft_search, "CHUNK", 1 if alone else 4)
        model, rng = kind.make(300, 5, seed=seed), np.random.default_rng(seed)
        lists = changed(lists_of(model), model, rng)
        passing = set(model.item_ids_N[rng.random(300) < share].tolist())
        search = SoftSearch(model, lists, SearchConfig(2, evidence=9, explore=RANKED_ONLY))
        only = search.select(np.isin(lists.item_ids_N, list(passing)))
        histories = histories_of(model, 4, seed)
        answers = search.search(histories, np.zeros(4, np.int64), k, only=only)
    for b, history in enumerate(histories):
        found = answers.items_BK[b][answers.items_BK[b] >= 0].tolist()
        left = passing - set(history.items)
        assert set(found) <= left and len(set(found)) == len(found) == min(k, len(left))
        score = dict(zip(model.item_ids_N.tolist(), every_score(model, history)[0], strict=True))
        np.testing.assert_allclose(
            answers.scores_BK[b, : len(found)], [score[i] for i in found], rtol=1e-4, atol=1e-4
        )


def test_what_is_drawn_passes_too_and_as_often_as_its_propensity_says() -> None:
    model = StandIn.make(240, 8, seed=3)
    lists = lists_of(model)
    history, times = histories_of(model, 1, 5)[0], np.arange(2000, dtype=np.int64)
    config = SearchConfig(codes=3, explore=ExplorationConfig(untouched=0.5))
    search = SoftSearch(model, lists, config)
    passing = model.item_ids_N[::7]
    only = search.select(np.isin(lists.item_ids_N, passing))
    found = search.search([history] * len(times), times, 2, only=only)
    drawn, propensities = found.items_BK[:, 1], found.propensities_BK[:, 1]
    assert set(drawn.tolist()) <= set(passing.tolist())
    touched = set(lists.locate(np.array(history.items))[0].tolist())
    assert not touched & set(found.item_codes_BK[:, 1].tolist())
    total = 0.0
    for item in np.unique(drawn).tolist():
        (p,) = np.unique(propensities[drawn == item])
        total += float(p)
        assert abs((drawn == item).mean() - p) < 5 * np.sqrt(p / len(times))
    assert total == pytest.approx(1, abs=0.05)


def test_young_items_are_drawn_of_those_that_pass() -> None:
    model = StandIn.make(240, 8, seed=3)
    lists = lists_of(model)
    config = SearchConfig(codes=3, explore=ExplorationConfig(untouched=0, young=0.5))
    search = SoftSearch(model, lists, config, np.full(240, 2**42))
    passing = model.item_ids_N[::7]
    only = search.select(np.isin(lists.item_ids_N, passing))
    found = search.search(histories_of(model, 20, 5), np.arange(20), 10, only=only)
    assert set(found.items_BK.ravel().tolist()) <= {*passing.tolist()}
    assert (found.propensities_BK[:, 5:] < 1).all()


# --- by properties of the items

COLORS = {"must": [{"key": "color", "match": {"value": "red"}}]}


def answerable(rows: dict[int, dict[str, Any]]) -> SimpleNamespace:
    model = StandIn.make(60, 4)
    search = SoftSearch(model, lists_of(model), SearchConfig(explore=RANKED_ONLY))
    columns = ItemColumns.of([batch_of(rows, {"color": "string"})])
    ids = model.item_ids_N.tolist()
    return SimpleNamespace(ids=ids, search=search, of=Answerable(search, columns), columns=columns)


def ids_of(made: SimpleNamespace, selection: Any) -> list[int]:
    if selection is None:
        return made.ids
    return sorted(made.search.lists.item_ids_N[selection.positions_p].tolist())


def test_where_everything_may_answer_nothing_is_selected() -> None:
    made = answerable({})
    assert made.of.of(None, None, 0) is None
    withdrawn_elsewhere = Answerable(made.search, ItemColumns.of([batch_of({10**9: {"state": 2}})]))
    assert withdrawn_elsewhere.of(None, None, 0) is None


def test_of_no_items_none_passes() -> None:
    model = StandIn.make(60, 4)
    none = model.item_ids_N[:0]
    vectors_nD = np.empty((0, model.dimension), np.float32)
    nothing = CodeLists.build(none, model.codes_NQ[:0], vectors_nD, model.first_level_codes)
    search = SoftSearch(model, nothing, SearchConfig())
    only = Answerable(search, ItemColumns()).of(Filter.parse({}), [5], 0)
    found = search.search([History([5], [0])] * 2, np.zeros(2, np.int64), 5, only=only)
    assert (found.items_BK == -1).all()


def test_state_validity_filter_and_ids_hold_together() -> None:
    first, second, third, fourth, *_ = StandIn.make(60, 4).item_ids_N.tolist()
    red = {"color": "red"}
    made = answerable(
        {first: red, second: red | {"state": 1}, third: red | {"available_from": 50}, fourth: {}}
    )
    filter_ = Filter.parse(COLORS)
    assert ids_of(made, made.of.of(None, None, 0)) == [
        i for i in made.ids if i not in (second, third)
    ]
    assert ids_of(made, made.of.of(None, None, 50)) == [i for i in made.ids if i != second]
    assert ids_of(made, made.of.of(filter_, None, 0)) == [first]
    assert ids_of(made, made.of.of(filter_, None, 50)) == [first, third]
    assert ids_of(made, made.of.of(filter_, [third, fourth, 10**9], 50)) == [third]
    assert ids_of(made, made.of.of(None, [second, fourth], 50)) == [fourth]
    assert ids_of(made, made.of.of(None, [], 50)) == []
    assert made.of.of(filter_, None, 50) is made.of.of(Filter.parse(COLORS), None, 60)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_after_any_changes_what_answers_is_what_the_columns_say(data: st.DataObject) -> None:
    made, filter_, kinds = answerable({}), Filter.parse(COLORS), {"color": "string"}
    one = st.sampled_from([{"color": "red"}, {"color": "blue"}, {"state": 1, "color": "red"}, {}])
    rows = st.dictionaries(st.sampled_from([*made.ids, 10**9]), one, min_size=1, max_size=20)
    batches = [batch_of({2 * 10**9: {"color": "red"}}, kinds)]
    states = [ItemColumns.of(batches)]
    of = Answerable(made.search, states[0], made.of)
    for _ in range(data.draw(st.integers(1, 4))):
        if data.draw(st.booleans()):
            of.of(filter_, None, 0)
        if data.draw(st.booleans()) and len(states) > 1:  # merged into the next one
            batches.pop(), states.pop()
        batches.append(batch_of(data.draw(rows), kinds))
        states.append(states[-1].with_part(batches[-1]))
        of = Answerable(made.search, states[-1], of)
    fresh = Answerable(made.search, ItemColumns.of(batches))
    assert ids_of(made, of.of(filter_, None, 0)) == ids_of(made, fresh.of(filter_, None, 0))
    assert ids_of(made, of.of(None, None, 0)) == ids_of(made, fresh.of(None, None, 0))


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    made = answerable({})
    monkeypatch.setattr("indexer.search.answerable.KEPT_BYTES", 2000)
    for n in range(50):
        made.of.of(
            Filter.parse({"must_not": {"key": "category", "match": {"value": str(n)}}}), None, 0
        )
    assert len(made.of._kept) < 10
    long = Filter.parse({"must_not": {"key": "category", "match": {"value": "x" * 2000}}})
    made.of.of(long, None, 0)
    assert list(made.of._kept) == [(long.text, 0)]
