from __future__ import annotations

from pathlib import Path

import numpy as np
import orjson
import pytest

from model.evaluation import predictions, runner
from model.evaluation.protocol import ProtocolError
from tests.model.evaluation.made_up_log import make_items, make_log, write_files
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


def test_the_command_writes_predictions_and_a_report(tmp_path: Path, capsys):
    log = make_log()
    events, items = write_files(tmp_path, log, make_items())
    last = list(log.days())[4].queries.day
    arguments = ["--model", "popularity", "--events", str(events), "--items", str(items)]
    date = str(np.datetime64(last, "D"))
    assert runner.main([*arguments, "--out", str(tmp_path / "run"), "--until", date]) == 0
    report = orjson.loads((tmp_path / "run" / "report.json").read_bytes())
    answers = predictions.read(tmp_path / "run" / "predictions.parquet")
    assert report["metrics"]["queries"] == len(answers)
    assert answers.days_R.max() == last
    assert report["name"] == "popularity"
    assert report["model"] == {"half_life": 7.0}
    assert {"warm_up", "answer", "learn"} == set(report["seconds"])
    assert '"recall@50"' in capsys.readouterr().out


def test_the_command_names_a_missing_file_in_one_line(tmp_path: Path, capsys):
    missing = str(tmp_path / "absent.csv")
    arguments = ["--model", "popularity", "--events", missing, "--items", missing]
    assert runner.main([*arguments, "--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "absent.csv" in error
    assert error.count("\n") == 1
