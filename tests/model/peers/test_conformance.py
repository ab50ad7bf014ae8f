"""What every peer must do, whatever it is; a new peer in the registry is tested without a line."""

from __future__ import annotations

import numpy as np
import orjson
import pytest

from model.evaluation import runner
from model.evaluation.predictions import Predictions
from model.evaluation.protocol import ProtocolError, Queries
from model.histories import History
from model.peers.factory import PEERS, build
from tests.model.evaluation.made_up_log import make_items, make_log

pytestmark = pytest.mark.parametrize("name", sorted(PEERS))
ITEMS = make_items()
_answers: dict[str, Predictions] = {}


def play(name: str, seed: int = 0) -> Predictions:
    """The answers of a peer to the whole log (kept: several tests look at them)."""
    if name not in _answers:
        _answers[name] = runner.run(make_log(), ITEMS, build(name, ITEMS, seed)).predictions
    return _answers[name]


def test_it_answers_every_query_by_the_rules(name: str):
    assert len(play(name)) == sum(len(day.query_R) for day in make_log().days())


def test_cutting_the_log_changes_no_earlier_answer(name: str):
    whole, log = play(name), make_log()
    days = sorted(set(whole.days_R.tolist()))
    cut = runner.run(log.until(days[len(days) // 2]), ITEMS, build(name, ITEMS)).predictions
    assert 0 < len(cut) < len(whole)
    for field, value in vars(cut).items():
        assert np.array_equal(getattr(whole, field)[: len(cut)], value), field


def test_it_learns_the_day_after_the_warm_up_unless_it_is_frozen(name: str):
    model, log = build(name, ITEMS), make_log()
    model.warm_up(log.warm_up())
    day = next(iter(log.days()))
    before = model.answer(day.queries)
    assert np.array_equal(before.items_BK, model.answer(day.queries).items_BK), "asking changes it"
    replayed = model.learn(day.events)
    assert 0 <= replayed <= 4 * len(day.events)
    after = model.answer(day.queries)
    changed = not np.array_equal(before.scores_BK, after.scores_BK)
    assert changed != name.endswith("_frozen")


def test_it_needs_neither_titles_nor_categories(name: str):
    bare = [type(item)(item.item_id) for item in ITEMS]
    log = make_log()
    days = list(log.days())
    run = runner.run(log.until(days[0].queries.day), bare, build(name, bare))
    assert len(run.predictions) == len(days[0].query_R)


def test_it_serves_long_histories_and_histories_of_new_items(name: str):
    model, log = build(name, ITEMS), make_log()
    model.warm_up(log.warm_up())
    never_seen = ITEMS[-1].item_id
    now = log.warm_up_day + 1
    long = [item.item_id for item in ITEMS[:60]]
    times = [(now - 70 + n) * 86_400_000 for n in range(60)]
    histories = [History(long, times), History([never_seen], [times[-1]])]
    answers = model.answer(Queries(now, np.array([901, 902]), histories))
    assert answers.items_BK.shape == answers.scores_BK.shape == (2, 50)
    assert set(long).isdisjoint(answers.items_BK[0].tolist())
    assert np.isfinite(answers.scores_BK).all()


def test_its_facts_are_plain_json(name: str):
    assert orjson.dumps(build(name, ITEMS).facts())


def test_an_unknown_name_is_refused_with_the_known_ones(name: str):
    with pytest.raises(ProtocolError, match=name):
        build("no such peer", ITEMS)
