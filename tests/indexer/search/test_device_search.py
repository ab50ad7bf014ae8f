"""Lists on a device answer as they do where they are, one query after the other.

The CPU stands for the device, by the same code; on a GPU it is checked where there is one.
"""

from __future__ import annotations

import gc
import sys
import threading
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.lists import cells as cells_module
from indexer.lists.code_list import CodeList
from indexer.lists.device_rows import DeviceRows
from indexer.search import config as config_module
from indexer.search import device_scores
from indexer.search.answers import Answers
from indexer.search.config import RANKED_ONLY, SearchConfig
from indexer.search.similar_items import Trigger
from indexer.search.soft_search import SoftSearch
from indexer.search.whole_scores import WholeScores
from model.histories import History
from tests.indexer.search.test_soft_search import WithEvidence, changed, histories_of, lists_of
from tests.indexer.stand_in import StandIn

MIB = 1 << 20
PLENTY = 64 * MIB
on_a_gpu = pytest.param(
    "cuda",
    marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
)


def assert_alike(one: Answers, other: Answers) -> None:
    for field in fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if a.dtype.kind == "f":
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4, err_msg=field.name)
        else:
            np.testing.assert_array_equal(a, b, err_msg=field.name)


@pytest.mark.parametrize("device", ["cpu", on_a_gpu])
@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    items=st.integers(1, 400),
    share=st.sampled_from([1e-9, 1.0]),
    evidence=st.sampled_from([0, 9]),
    quota=st.sampled_from(["joint", "joint", "equal"]),
    kind=st.sampled_from([StandIn, WithEvidence]),
    grown=st.booleans(),
    passing=st.sampled_from([None, 0.1, 0.4, 0.9]),
    left_out=st.sampled_from(["history", "nothing", "much"]),
    at_once=st.sampled_from([1, 3, 8]),
)
def test_lists_on_a_device_answer_as_a_query_alone_does(
    device, seed, items, share, evidence, quota, kind, grown, passing, left_out, at_once
):
    model, rng = kind.make(items, 8, seed=seed), np.random.default_rng(seed)
    # to whom nothing is near, all is alike: which of them answer is then left open
    histories = [h for h in histories_of(model, 8, seed) if h.items]
    many = [[*model.item_ids_N[: items // 2].tolist(), 10**9]] * len(histories)
    exclude = {"history": True, "nothing": False, "much": many}[left_out]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells_module, "SHORT", 16)
        patch.setattr(config_module, "LEAST_SCORED", 40)
        patch.setattr(WholeScores, "suits", lambda self, queries: False)
        lists = changed(lists_of(model), model, rng) if grown else lists_of(model)
        config = SearchConfig(3, quota, evidence=evidence, scored_share=share)
        rows = DeviceRows(device, PLENTY)
        found = []
        for search in (SoftSearch(model, lists, config), on(rows, model, lists, config)):
            mask_N = np.random.default_rng(seed).random(len(lists.item_ids_N)) < (passing or 1)
            only = None if passing is None else search.select(mask_N)
            one_time = device_scores.SCORE_BYTES * len(lists.item_ids_N)
            rows.scores_bytes = at_once * one_time
            now = np.zeros(len(histories), np.int64)
            found.append(search.search(histories, now, 20, exclude=exclude, only=only))
    if passing is not None:  # rows beside those that pass cost nothing there
        found = [replace(one, scored_B=found[0].scored_B) for one in found]
    assert_alike(*found)
    assert rows.refused == 0 and (rows.nbytes > 0) == (quota == "joint" and len(lists) > 0)


def on(rows: DeviceRows, model: StandIn, lists: Any, config: SearchConfig) -> SoftSearch:
    return SoftSearch(model, lists, config, device=rows)


@pytest.mark.parametrize("device", ["cpu", on_a_gpu])
def test_items_like_an_item_are_the_same_on_a_device(device: str) -> None:
    model = WithEvidence.make(300, 8)
    lists, config = lists_of(model), SearchConfig(3)
    rows = DeviceRows(device, PLENTY)
    for item, row in ((int(model.item_ids_N[7]), 7), (10**9, 3)):
        trigger = Trigger(item, int(model.codes_NQ[row, 0]), model.vectors_ND[row])
        for history in histories_of(model, 4, 1):
            one, other = (
                search.similar.search(trigger, history, 5, 20, 3)
                for search in (SoftSearch(model, lists, config), on(rows, model, lists, config))
            )
            assert (one.items, one.sources) == (other.items, other.sources)
            np.testing.assert_allclose(one.scores, other.scores, rtol=1e-4, atol=1e-4)


def test_a_version_brings_over_what_has_changed_and_the_last_one_takes_it_away() -> None:
    model, config = StandIn.make(2000, 8), SearchConfig()
    rows, first = DeviceRows("cpu", PLENTY), lists_of(model)
    brought: list[int] = []
    copied = rows.on
    rows.on = lambda array: brought.append(array.nbytes) or copied(array)  # type: ignore
    before = on(rows, model, first, config)
    vectors = sum(one.base.vectors.nbytes for one in first.lists)
    assert vectors < sum(brought) and vectors < rows.nbytes < 2 * vectors
    brought.clear()
    some = model.item_ids_N[:3]
    second = first.with_items(some, model.codes_NQ[:3], model.vectors_ND[:3])
    after = on(rows, model, second, config)
    assert max(brought) < vectors / 20 and sum(brought) < vectors / 4
    answers = [s.search([History([int(some[0])], [0])], np.zeros(1), 9) for s in (before, after)]
    np.testing.assert_array_equal(answers[0].items_BK, answers[1].items_BK)
    held = rows.nbytes
    del before, first
    gc.collect()
    assert vectors < rows.nbytes < held
    code = int(second.locate(some)[0][0])
    third = second.replaced({code: CodeList(second.lists[code].packed())})
    packed = on(rows, model, third, config)
    assert rows.nbytes > vectors + third.lists[code].base.vectors.nbytes  # `after` has its own
    del after, second, packed, third
    gc.collect()
    assert rows.nbytes == 0


def test_what_is_held_can_be_measured_while_versions_come() -> None:
    lists, rows = lists_of(StandIn.make(300, 64)), DeviceRows("cpu", PLENTY)
    stop, failed = threading.Event(), list[Exception]()

    def measure() -> None:
        while not stop.is_set():
            try:
                assert rows.nbytes >= 0
            except Exception as error:
                failed.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=measure)
    thread.start()
    try:
        for _ in range(100):
            rows.hold(lists, 1)
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(before)
    assert not failed and rows.nbytes == 0


def test_lists_that_do_not_fit_are_searched_where_they_are() -> None:
    model, said = StandIn.make(3000, 8, dimension=64), list[str]()
    lists, config = lists_of(model), SearchConfig(3, explore=RANKED_ONLY)
    rows = DeviceRows("cpu", MIB, said.append)
    histories = [h for h in histories_of(model, 8, 1) if h.items]
    now = np.zeros(len(histories), np.int64)
    for _ in range(2):
        found = on(rows, model, lists, config).search(histories, now, 20)
        assert_alike(found, SoftSearch(model, lists, config).search(histories, now, 20))
    assert (rows.nbytes, rows.refused, len(said)) == (0, 2, 1)
    assert "raise [search] device_memory_mib" in said[0]


def test_where_the_device_has_no_memory_left_the_query_is_answered_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, said = StandIn.make(300, 8), list[str]()
    lists, config = lists_of(model), SearchConfig(3, explore=RANKED_ONLY)
    search = on(DeviceRows("cpu", PLENTY, said.append), model, lists, config)
    histories, now = histories_of(model, 8, 1), np.zeros(8, np.int64)

    def none_left(*_: object) -> None:
        raise torch.OutOfMemoryError("a test")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "topk", none_left)
        patch.setattr(WholeScores, "suits", lambda self, queries: False)
        found = search.search(histories, now, 20)
    assert_alike(found, search.search(histories, now, 20))
    assert len(said) == 1 and "no memory left" in said[0]
