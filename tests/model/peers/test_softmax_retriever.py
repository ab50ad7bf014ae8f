from __future__ import annotations

import numpy as np
import pytest
import torch

from model.evaluation import runner
from model.evaluation.protocol import Queries, canonical_order
from model.histories import History
from model.peers.comirec import SelfAttentiveInterests
from model.peers.mind import InterestCapsules
from model.peers.sasrec import CausalAttention
from model.peers.softmax_retriever import HistoryTensors, SoftmaxRetriever, SoftmaxRetrieverConfig
from model.peers.two_tower import PooledHistory
from streaming.bounds import DAY_MS
from tests.model.evaluation.made_up_log import make_items, make_log

ENCODERS = [PooledHistory, CausalAttention, SelfAttentiveInterests, InterestCapsules]
QUICK = SoftmaxRetrieverConfig(
    dimension=16, epochs=40, batch=64, period_events=32, learning_rate=0.01, dropout=0.0
)


def pairs(users: int = 240, items: int = 120):
    """Everyone takes an item and then the next one."""
    user, step = (a.ravel() for a in np.meshgrid(np.arange(users), np.arange(2), indexing="ij"))
    return canonical_order(user, 3 * ((7 * user + step) % items + 1), 86_400 * (100 + step))


def histories_in(dimension: int) -> HistoryTensors:
    torch.manual_seed(0)
    known_BL = torch.tensor([[False, False, True], [True, True, True], [False, False, False]])
    vectors_BLD = torch.randn(3, 3, dimension) * known_BL[..., None]
    return HistoryTensors(vectors_BLD, known_BL, torch.randint(0, 10, (3, 3)))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_it_learns_which_item_follows_which(encoder):
    items = make_items()
    model = SoftmaxRetriever(items, encoder, QUICK, 0, "cpu")
    model.warm_up(pairs())
    asked = range(5, 100, 5)
    histories = [History([3 * n], [101 * DAY_MS]) for n in asked]
    answers = model.answer(Queries(102, np.array(asked), histories))
    next_first = [3 * (n + 1) in answers.items_BK[b, :5] for b, n in enumerate(asked)]
    assert np.mean(next_first) > 0.8


@pytest.mark.parametrize("encoder", ENCODERS)
def test_padding_leaves_no_trace(encoder):
    module = encoder(16, 0.0).eval()
    history = histories_in(16)
    padded = torch.nn.functional.pad
    wider = HistoryTensors(
        padded(history.vectors_BLD, (0, 0, 4, 0)),
        padded(history.known_BL, (4, 0)),
        padded(history.ages_BL, (4, 0)),
    )
    assert torch.allclose(module(history), module(wider), atol=1e-5)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_user_without_history_has_a_vector(encoder):
    assert torch.isfinite(encoder(16, 0.0).eval()(histories_in(16))).all()


def test_the_same_seed_gives_the_same_answers_and_another_gives_others():
    log, items = make_log(events=300), make_items()
    config = SoftmaxRetrieverConfig(dimension=16, epochs=2, content=True, half_lives=(5.0,))

    def play(seed: int) -> np.ndarray:
        model = SoftmaxRetriever(items, PooledHistory, config, seed, "cpu")
        return runner.run(log, items, model).predictions.scores_RK

    first = play(0)
    torch.rand(7)  # a stranger draws from the global generator
    assert np.array_equal(first, play(0))
    assert not np.array_equal(first, play(1))


def test_the_global_random_generator_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    SoftmaxRetriever(make_items(), CausalAttention, QUICK, 0, "cpu").observe(pairs())
    assert torch.equal(torch.rand(3), expected)


def test_content_ranks_new_items_of_the_right_kind_and_ids_alone_cannot():
    items = make_items()
    sixths = np.arange(400)
    user, item = sixths % 40, sixths % 40 % 6 + 6 * (sixths // 40)  # each user keeps to a category
    events = canonical_order(user, 3 * (item + 1), 86_400 * (100 + sixths // 40))
    new = [i.item_id for i in items if i.item_id > 3 * 60 and i.category == "1"]
    shares = {}
    for content in (True, False):
        config = SoftmaxRetrieverConfig(
            dimension=16, epochs=15, batch=64, content=content, learning_rate=0.01
        )
        model = SoftmaxRetriever(items, PooledHistory, config, 0, "cpu")
        model.warm_up(events)
        histories = [History([3, 21, 39], [105 * DAY_MS] * 3)]
        answers = model.answer(Queries(110, np.array([0]), histories))
        shares[content] = np.isin(new, answers.items_BK[0]).mean()
    assert shares[True] > 0.8 > shares[False]


def test_a_burst_lifts_an_item_only_with_a_recency_prior():
    items, log = make_items(), make_log()
    burst = 3 * 110
    ranks = {}
    for half_lives in ((), (5.0,)):
        config = SoftmaxRetrieverConfig(
            dimension=16, epochs=3, half_lives=half_lives, online_learning_rate=0.0
        )
        model = SoftmaxRetriever(items, PooledHistory, config, 0, "cpu")
        model.warm_up(log.warm_up())
        day = log.warm_up_day + 1
        seconds_E = np.full(30, day * 86_400)
        model.learn(canonical_order(np.arange(500, 530), np.full(30, burst), seconds_E))
        histories = [History([3], [day * DAY_MS])]
        items_K = model.answer(Queries(day + 1, np.array([1]), histories)).items_BK[0].tolist()
        ranks[half_lives] = items_K.index(burst) if burst in items_K else 999
    assert ranks[(5.0,)] < 5 < ranks[()]
