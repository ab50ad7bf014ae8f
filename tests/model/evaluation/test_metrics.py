from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from itertools import combinations
from math import log2
from pathlib import Path

import numpy as np
import pytest

from model.evaluation import metrics, predictions, runner
from model.peers.factory import build
from tests.model.evaluation.made_up_log import make_items, make_log, write_files
from tests.model.evaluation.random_model import RandomModel

SCORER = Path(__file__).parents[4] / "shared" / "score_predictions.py"


def by_hand(log, items, answers: predictions.Predictions) -> dict[str, float]:
    """The metrics again, by plain loops over their definitions."""
    events = list(
        zip(
            log.events.users_E.tolist(),
            log.events.items_E.tolist(),
            log.events.days_E.tolist(),
            strict=True,
        )
    )
    category = {item.item_id: item.category for item in items}
    rows = []
    for r in range(len(answers)):
        day, user, target = (
            int(answers.days_R[r]),
            int(answers.users_R[r]),
            int(answers.targets_R[r]),
        )
        answer = answers.items_RK[r].tolist()
        past = [e for e in events if e[2] < day]
        count = Counter(item for _, item, _ in past)
        popular = sorted(category, key=lambda i: (-count[i], i))
        pairs = list(combinations(answer, 2))
        rows.append(
            {
                "rank": answer.index(target) + 1 if target in answer else 999,
                "tail": target not in popular[: int(0.2 * len(items))],
                "cold_user": sum(u == user for u, _, _ in past) <= 4,
                "cold_item": count[target] <= 4,
                "ild": sum(category[a] != category[b] for a, b in pairs) / len(pairs),
            }
        )

    def recall(k: int, part: list[dict]) -> float:
        return sum(row["rank"] <= k for row in part) / len(part)

    def ndcg(k: int, part: list[dict]) -> float:
        return sum(1 / log2(row["rank"] + 1) for row in part if row["rank"] <= k) / len(part)

    shown = Counter(answers.items_RK.ravel().tolist())
    x = [shown[item.item_id] for item in items]
    tail, cold_user, cold_item = (
        [r for r in rows if r[s]] for s in ("tail", "cold_user", "cold_item")
    )
    return {
        "queries": len(rows),
        "recall@20": recall(20, rows),
        "recall@50": recall(50, rows),
        "ndcg@20": ndcg(20, rows),
        "ndcg@50": ndcg(50, rows),
        "long_tail_recall@50": recall(50, tail),
        "cold_user_recall@50": recall(50, cold_user),
        "cold_user_ndcg@50": ndcg(50, cold_user),
        "cold_item_recall@50": recall(50, cold_item),
        "coverage@50": len(shown) / len(items),
        "ild@50": sum(row["ild"] for row in rows) / len(rows),
        "gini@50": sum(abs(a - b) for a in x for b in x) / (2 * len(x) * sum(x)),
        "long_tail_queries": len(tail),
        "cold_user_queries": len(cold_user),
        "cold_item_queries": len(cold_item),
    }


@pytest.mark.parametrize("name", ["random", "popularity"])
def test_every_metric_equals_its_definition(name: str):
    log, items = make_log(), make_items()
    model = RandomModel(items) if name == "random" else build(name, items)
    answers = runner.run(log, items, model).predictions
    report = metrics.report(log.events, items, answers)
    for metric, value in by_hand(log, items, answers).items():
        assert report[metric] == pytest.approx(value, abs=1e-12), metric


def test_the_independent_scorer_agrees_to_six_digits(tmp_path: Path):
    if not SCORER.exists():
        pytest.skip("the independent scorer ../shared/score_predictions.py is not here")
    spec = importlib.util.spec_from_file_location("score_predictions", SCORER)
    assert spec and spec.loader
    scorer = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = scorer  # its dataclasses look their module up
    spec.loader.exec_module(scorer)
    log, items = make_log(), make_items()
    run = runner.run(log, items, build("neighbours", items))
    predictions.write(tmp_path / "predictions.parquet", run.predictions)
    events_path, items_path = write_files(tmp_path, log, items)
    theirs = scorer.score(
        scorer.load_events(events_path),
        scorer.load_items(items_path),
        tmp_path / "predictions.parquet",
    )
    ours = metrics.report(log.events, items, run.predictions)
    assert ours.keys() == theirs.keys()
    for metric, value in theirs.items():
        assert ours[metric] == pytest.approx(value, abs=1e-9), metric


def test_a_slice_without_queries_has_no_metric():
    log, items = make_log(), make_items()
    answers = runner.run(log, items, RandomModel(items)).predictions
    everyone_known = predictions.Predictions(
        **{**vars(answers), "history_lengths_R": answers.history_lengths_R + 5}
    )
    report = metrics.report(log.events, items, everyone_known)
    assert report["cold_user_recall@50"] is None
    assert report["cold_user_queries"] == 0


def test_gini_spans_equal_to_concentrated():
    assert metrics.gini(np.array([2, 2, 2, 2])) == pytest.approx(0.0)
    assert metrics.gini(np.array([0, 0, 0, 9])) == pytest.approx(0.75)
    assert metrics.gini(np.zeros(3)) == 0.0
