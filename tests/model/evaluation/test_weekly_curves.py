from __future__ import annotations

import pytest

from model.evaluation import metrics, predictions, runner, weekly_curves
from streaming.bounds import DAY_MS
from tests.model.evaluation.made_up_log import make_items, make_log
from tests.model.evaluation.random_model import RandomModel

ITEMS = make_items()


@pytest.fixture(scope="module")
def answers() -> predictions.Predictions:
    return runner.run(make_log(), ITEMS, RandomModel(ITEMS)).predictions


@pytest.mark.parametrize(
    "metric",
    [
        "recall@20",
        "recall@50",
        "ndcg@50",
        "long_tail_recall@50",
        "cold_user_recall@50",
        "cold_user_ndcg@50",
        "cold_item_recall@50",
    ],
)
def test_a_weekly_curve_adds_up_to_the_whole(answers: predictions.Predictions, metric: str):
    log = make_log()
    weeks = weekly_curves.weekly(log.events, ITEMS, answers)[metric]
    queries = sum(week["queries"] for week in weeks)
    mean = sum(week["queries"] * week["value"] for week in weeks) / queries
    report = metrics.report(log.events, ITEMS, answers)
    assert mean == pytest.approx(report[metric])
    assert weeks[0]["day"] == answers.days_R[0] > log.events.times_E[0] // DAY_MS


def test_coverage_grows_to_that_of_the_whole(answers: predictions.Predictions):
    log = make_log()
    weeks = weekly_curves.weekly(log.events, ITEMS, answers)["coverage@50"]
    values = [week["value"] for week in weeks]
    assert values == sorted(values)
    assert values[-1] == metrics.report(log.events, ITEMS, answers)["coverage@50"]


def test_no_answers_have_no_curves():
    assert weekly_curves.weekly(make_log().events, ITEMS, predictions.join([])) == {}
