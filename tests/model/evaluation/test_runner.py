from __future__ import annotations

import numpy as np
import pytest

from model.evaluation import runner
from model.evaluation.protocol import ProtocolError
from tests.model.evaluation.made_up_log import make_items, make_log
from tests.model.evaluation.random_model import RandomModel


def test_each_day_is_answered_before_it_is_learnt():
    log, items = make_log(), make_items()
    model = RandomModel(items)
    result = runner.run(log, items, model)
    assert model.seen[0] == ("warm_up", log.warm_up_day)
    days = [day.queries.day for day in log.days()]
    assert model.seen[1:] == [(verb, day) for day in days for verb in ("answer", "learn")]
    assert result.learnt == len(log.events) - len(log.warm_up())


def test_a_model_within_the_replay_budget_is_counted():
    log, items = make_log(), make_items()
    result = runner.run(log, items, RandomModel(items, replays=4))
    assert result.replayed == 4 * result.learnt


def test_a_model_over_the_replay_budget_is_refused():
    items = make_items()
    with pytest.raises(ProtocolError, match="at most 4 for each are allowed"):
        runner.run(make_log(), items, RandomModel(items, replays=5))


def test_a_broken_answer_is_refused_with_its_day():
    class Cheat(RandomModel):
        def answer(self, queries):
            answers = super().answer(queries)
            answers.items_BK[0, 0] = queries.histories[0].items[0]
            return answers

    items = make_items()
    with pytest.raises(ProtocolError, match=r"\d{4}-\d\d-\d\d: the answer to query 0"):
        runner.run(make_log(), items, Cheat(items))


def test_a_user_with_two_events_on_a_day_counts_twice_with_one_answer():
    log, items = make_log(), make_items()
    answers = runner.run(log, items, RandomModel(items)).predictions
    keys = np.stack([answers.days_R, answers.users_R], axis=1)
    same = (keys[1:] == keys[:-1]).all(axis=1)
    assert same.any()
    assert (answers.items_RK[1:][same] == answers.items_RK[:-1][same]).all()


def test_a_watcher_sees_a_day_before_the_model_learns_it():
    log, items = make_log(), make_items()
    model, learnt = RandomModel(items), []
    runner.run(log, items, model, watch=lambda day, answers: learnt.append(model.seen[-1]))
    assert {verb for verb, _ in learnt} == {"answer"}
