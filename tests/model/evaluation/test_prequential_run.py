from __future__ import annotations

import numpy as np
import pytest
import torch

from model.evaluation import prequential_run as prequential
from model.evaluation import protocol, runner
from model.histories import History
from model.learning import learner
from model.network import item_tower, quantizer, sparc
from model.tables import cooccurrence
from tests.model.synthetic_stream import make_items, make_sequences

CONFIG = prequential.OnlineSparcConfig(
    learner=learner.LearnerConfig(
        model=sparc.SparcConfig(
            item_tower=item_tower.ItemTowerConfig(dimension=16),
            quantizer=quantizer.QuantizerConfig(codes=8),
            neighbours=cooccurrence.CooccurrenceConfig(slots=8, answers=16),
            key_dimension=16,
        ),
        chunk=8,
    ),
    batch_size=64,
    rehearsals=0.5,
)
ITEMS = make_items(120)


def small_log(events: int = 900) -> protocol.EventLog:
    sequences = make_sequences(ITEMS, events)
    return protocol.split(
        protocol.canonical_order(
            np.array([s.user_id for s in sequences]),
            np.array([s.target for s in sequences]),
            np.array([s.event_time // 1000 for s in sequences]),
        )
    )


def play(log: protocol.EventLog) -> runner.Run:
    torch.set_num_threads(1)
    return runner.run(log, ITEMS, prequential.OnlineSparc(ITEMS, CONFIG))


def test_cutting_the_log_changes_no_earlier_prediction() -> None:
    log = small_log()
    cut_day = log.warm_up_day + 8
    whole, cut = play(log), play(log.until(cut_day))
    early = whole.predictions.days_R <= cut_day
    assert 0 < early.sum() < len(early)
    assert np.array_equal(whole.predictions.items_RK[early], cut.predictions.items_RK)
    assert np.array_equal(whole.predictions.scores_RK[early], cut.predictions.scores_RK)


def test_replay_stays_within_the_budget() -> None:
    result = play(small_log())
    assert 0 < result.replayed <= protocol.REPLAY_BUDGET * result.learnt


def test_the_code_of_an_item_changes_its_score_only_through_the_user_vector() -> None:
    log = small_log()
    model = prequential.OnlineSparc(ITEMS, CONFIG)
    model.warm_up(log.warm_up())
    served = model.learner.retrieval_model()
    history = [History([ITEMS[3].item_id], [int(log.events.times_E[0])])]
    now = np.array([log.events.times_E[-1]])
    scores_BN = prequential.score(served, history, int(now[0]), 0)
    every = np.arange(served.first_level_codes)[None]
    users_CD = served.user_vectors(served.encode(history, now), every)[0]
    plain_N = (users_CD[served.codes_NQ[:, 0]] * served.vectors_ND).sum(1)
    assert scores_BN[0] == pytest.approx(plain_N, abs=1e-5)


def test_soft_search_visits_the_most_probable_codes_only() -> None:
    log = small_log()
    model = prequential.OnlineSparc(ITEMS, CONFIG)
    model.warm_up(log.warm_up())
    served = model.learner.retrieval_model()
    now = int(log.events.times_E[-1])
    history = [History([ITEMS[3].item_id], [now])]
    scores_BN = prequential.score(served, history, now, 2)
    log_p_BC = served.log_interests(served.encode(history, np.array([now])))
    best = set(np.argsort(-log_p_BC[0])[:2].tolist())
    assert set(served.codes_NQ[np.isfinite(scores_BN[0]), 0].tolist()) <= best
