"""Lists on a GPU answer as lists on the CPU do; skipped, with the reason, where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from indexer.errors import IndexerError
from indexer.lists.code_lists import CodeLists
from indexer.lists.gpu_lists import on_gpu, why_no_gpu
from indexer.search.config import ExplorationConfig, SearchConfig
from indexer.search.soft_search import SoftSearch
from model.histories import History
from tests.indexer.stand_in import StandIn

reason = why_no_gpu()
with_gpu = pytest.mark.skipif(reason is not None, reason=f"parity with the GPU: {reason}")


def lists_of(model: StandIn) -> CodeLists:
    return CodeLists.build(
        model.item_ids_N, model.codes_NQ, model.vectors_ND, model.first_level_codes
    )


@with_gpu
@pytest.mark.parametrize("quota", ["joint", "equal"])
def test_soft_search_answers_alike_on_cpu_and_gpu(quota):
    model = StandIn.make(3000, 12, 32)
    config = SearchConfig(4, quota, explore=ExplorationConfig(untouched=0))
    rng = np.random.default_rng(0)
    asked = [History(rng.choice(model.item_ids_N, 5).tolist(), [0] * 5) for _ in range(40)]
    lists = lists_of(model)
    now = np.zeros(40, np.int64)
    cpu = SoftSearch(model, lists, config).search(asked, now, 20)
    gpu = SoftSearch(model, on_gpu(lists), config).search(asked, now, 20)
    np.testing.assert_allclose(gpu.scores_BK, cpu.scores_BK, rtol=1e-3, atol=1e-3)
    assert (gpu.items_BK == cpu.items_BK).mean() > 0.98  # equal scores but for rounding
    one = SoftSearch(model, on_gpu(lists), config).search(asked[:1], now[:1], 20)
    np.testing.assert_allclose(one.scores_BK, cpu.scores_BK[:1], rtol=1e-3, atol=1e-3)


@with_gpu
def test_lists_on_the_gpu_take_new_items_as_others_do():
    model = StandIn.make(300, 6, 32)
    lists = on_gpu(lists_of(model))
    ids, codes = np.array([900_000]), np.array([[3, 1]])
    more = lists.with_items(ids, codes, np.ones((1, model.dimension), np.float32))
    assert more.locate(ids)[0] == 3 and len(more) == 301 and len(lists) == 300
    score = np.zeros(1, np.float32)
    row = int(more.locate(ids)[1][0])
    on_gpu(more).lists[3].score(row, row + 1, np.ones(32, np.float32), score)
    assert score[0] == pytest.approx(32)


@pytest.mark.skipif(reason is None, reason="there is a GPU")
def test_without_a_gpu_it_is_said_what_is_missing():
    with pytest.raises(IndexerError, match="cannot be put on a GPU"):
        on_gpu(lists_of(StandIn.make(20, 3)))
