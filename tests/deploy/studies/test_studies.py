"""The evaluation answers as the pipeline would: its own index, its own search, nothing ahead."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from deploy.studies import runs
from indexer.evaluation.online_sparc import OnlineSparc
from indexer.evaluation.published_versions import ask
from indexer.evaluation.recall_cost_curve import EVERY, TradeOff
from indexer.evaluation.serving_variants import Mixed, PublishedEvery, search_ways
from indexer.search.config import RANKED_ONLY, SearchConfig
from indexer.search.soft_search import SoftSearch
from model.evaluation import gains, predictions, runner
from model.evaluation.weekly_curves import weekly
from tests.deploy.evaluation_log import ITEMS, read
from tests.model.dense_search import best

SCORER = Path(__file__).parents[4] / "shared" / "score_predictions.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluation")


@pytest.fixture(scope="module")
def report(folder: Path) -> dict[str, Any]:
    data, settings = read(folder)
    played, fresh = runs.play("sparc", data, settings, folder / "sparc", ways=runs.ALL_WAYS)
    assert fresh
    return played


@pytest.fixture(scope="module")
def sparc(folder: Path) -> OnlineSparc:
    """After the warm-up."""
    data, settings = read(folder)
    config = runs.sparc_config(settings, 0)
    model = OnlineSparc(data.items, config, settings.indexer, settings.search)
    model.warm_up(data.log.warm_up())
    return model


def test_the_indexes_answer_as_a_dense_scan_of_the_same_model(folder: Path, sparc: OnlineSparc):
    data, settings = read(folder)
    for day in list(data.log.days())[:3]:
        sparc.answer(day.queries)
        model, lists = sparc.served.handover.model, sparc.served.search.lists
        alone = SoftSearch(model, lists, replace(settings.search, evidence=0, explore=RANKED_ONLY))
        answers = ask(alone, day.queries)
        dense = best(model, day.queries.histories, day.queries.now_ms, settings.search.codes)
        assert np.allclose(answers.scores_BK, dense.scores_BK, atol=1e-4)
        same = answers.items_BK == dense.items_BK
        assert same.mean() > 0.99  # items of nearly equal scores may change places


def test_cutting_the_log_changes_no_earlier_answer(folder: Path, report: dict[str, Any]):
    data, settings = read(folder)
    whole = predictions.read(folder / "sparc" / "predictions.parquet")
    days = np.unique(whole.days_R)
    until = runner.iso_day(int(days[len(days) // 2]))
    cut_data, _ = read(folder, until)
    assert cut_data.log.warm_up_day == data.log.warm_up_day
    runs.play("sparc", cut_data, settings, folder / "cut", ways=runs.ALL_WAYS)
    for name in ("predictions.parquet", *(f"ways/{way}.parquet" for way in runs.ALL_WAYS)):
        whole = predictions.read(folder / "sparc" / name)
        cut = predictions.read(folder / "cut" / name)
        assert 0 < len(cut) < len(whole)
        for field, value in vars(cut).items():
            assert np.array_equal(getattr(whole, field)[: len(cut)], value), (name, field)


def scorer() -> ModuleType:
    if not SCORER.exists():
        pytest.skip("the independent scorer ../shared/score_predictions.py is not here")
    spec = importlib.util.spec_from_file_location("score_predictions", SCORER)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["predictions", "ways/hard_top_1", "ways/stale_towers"])
def test_the_report_agrees_with_the_independent_scorer(
    folder: Path, report: dict[str, Any], name: str
):
    judge = scorer()
    theirs = judge.score(
        judge.load_events(folder / "events.csv"),
        judge.load_items(folder / "items.csv"),
        folder / "sparc" / f"{name}.parquet",
    )
    ours = report if name == "predictions" else report["ways"][name.removeprefix("ways/")]
    for metric, value in theirs.items():
        assert ours["metrics"][metric] == pytest.approx(value, abs=1e-9), metric


def test_the_trade_off_ranks_targets_as_a_search_with_so_many_codes(
    folder: Path, sparc: OnlineSparc
):
    data, settings = read(folder)
    trade_off, found, shares = TradeOff([1, 2, 4]), {1: [], 2: [], 4: [], EVERY: []}, []
    found_alone: dict[int, list[np.ndarray]] = {codes: [] for codes in found}
    for day in list(data.log.days())[:5]:
        sparc.answer(day.queries)
        served = sparc.served
        now_ms = np.full(len(day.queries), day.queries.now_ms)
        [everything] = served.search.candidates(day.queries.histories, now_ms)
        trade_off.add(everything, day.query_R, day.targets_R)
        for codes, ranks in found.items():
            every = len(served.search.lists.lists)
            config = replace(settings.search, codes=codes or every, explore=RANKED_ONLY)
            search = SoftSearch(served.handover.model, served.search.lists, config)
            answers = search.search(day.queries.histories, now_ms, 50)
            ranks.append(gains.ranks(answers.items_BK[day.query_R], day.targets_R))
            lists_only = replace(config, evidence=0, explore=RANKED_ONLY)
            search = SoftSearch(served.handover.model, served.search.lists, lists_only)
            alone = search.search(day.queries.histories, now_ms, 50)
            found_alone[codes].append(gains.ranks(alone.items_BK[day.query_R], day.targets_R))
            if codes == 2:
                sizes_BS = served.search.lists.sizes_C[np.maximum(answers.searched_BS, 0)]
                scored_B = (sizes_BS * (answers.searched_BS >= 0)).sum(axis=1)
                codes_BN, _ = served.search.lists.locate(everything.items_BN.ravel())
                codes_BN = codes_BN.reshape(everything.items_BN.shape)
                for b, searched_S in enumerate(answers.searched_BS):
                    behind_N = ~np.isin(codes_BN[b], searched_S)
                    scored_B[b] += (everything.evidence_BN[b] & behind_N).sum()
                shares.append(scored_B[day.query_R] / len(served.search.lists))
    for codes, ranks in found.items():
        assert np.array_equal(trade_off.ranks(codes), np.concatenate(ranks)), codes
        alone_R = np.concatenate(found_alone[codes])
        assert np.array_equal(trade_off.ranks(codes, alone=True), alone_R), codes
    rows = {row["codes"]: row for row in trade_off.report()}
    assert rows[2]["share_scored"] == pytest.approx(np.concatenate(shares).mean(), abs=1e-6)
    assert rows["all"]["share_scored"] == rows["all"]["kept"] == 1.0
    assert rows["all"]["lists_alone"]["recall@50"] == rows["all"]["recall@50"]
    assert rows[1]["lists_alone"]["share_scored"] < rows[1]["share_scored"]


def test_the_report_says_what_retrieval_costs(folder: Path, report: dict[str, Any]):
    retrieval = report["retrieval"]
    assert retrieval["codes"] == 3
    row = next(row for row in report["trade_off"] if row["codes"] == 3)
    # the last place of a served answer is drawn
    assert row["recall@50"] == pytest.approx(report["metrics"]["recall@50"], abs=0.01)
    assert (
        retrieval["share_scored"] == pytest.approx(row["share_scored"]) and row["share_scored"] < 1
    )
    exhaustive = retrieval["exhaustive"]["recall@50"]
    assert retrieval["kept"] == pytest.approx(report["metrics"]["recall@50"] / exhaustive)


def test_known_and_explored_codes_share_everything_between_them(report: dict[str, Any]):
    exploration = report["exploration"]
    known, explored = exploration["known"], exploration["explored"]
    for share in ("probability", "share_of_targets", "share_of_answers"):
        assert known[share] + explored[share] == pytest.approx(1, abs=1e-4)
    assert known["codes"] + explored["codes"] == pytest.approx(8)
    hits = sum(
        part["recall@50"] * part["share_of_targets"]
        for part in (known, explored)
        if part["recall@50"] is not None
    )
    assert hits == pytest.approx(report["metrics"]["recall@50"])
    queries = sum(week["queries"] for week in exploration["weekly"])
    assert queries == report["metrics"]["queries"]
    pairs = [b for kind in exploration["calibration"].values() for b in kind]
    assert sum(b["pairs"] for b in pairs) == 8 * queries
    assert sum(b["pairs"] * b["observed"] for b in pairs) == pytest.approx(queries)


def test_the_codebook_is_on_record_for_every_day_with_queries(report: dict[str, Any]):
    daily = report["codebook"]["daily"]
    assert len(daily) == report["metrics"]["days"]
    assert "drift" not in daily[0]
    assert daily[0]["same_code_as_first"] == 1.0
    for entry in daily[1:]:
        assert entry["drift"]["movement"] >= 0
        assert 0 <= entry["drift"]["churn"] <= 1
        assert 0 < entry["codes_in_use"] <= 1
    assert all(sum(one["sizes"]) == ITEMS for one in report["codebook"]["list_sizes"])


def test_the_ways_differ_from_the_served_answer_in_what_they_say(
    folder: Path, report: dict[str, Any]
):
    served = predictions.read(folder / "sparc" / "predictions.parquet")
    ways = {n: predictions.read(folder / "sparc" / f"ways/{n}.parquet") for n in runs.ALL_WAYS}
    first = served.days_R == served.days_R.min()
    for name, answers in ways.items():
        assert np.array_equal(answers.targets_R, served.targets_R)
        at_first = np.array_equal(answers.items_RK[first], served.items_RK[first])
        assert at_first == (name not in search_ways(SearchConfig())), name
        if name == "published_whole":  # the tolerance is small
            assert (answers.items_RK == served.items_RK).mean() > 0.95
        else:
            assert not np.array_equal(answers.items_RK, served.items_RK), name
    weekly_, never = report["ways"]["published_weekly"], report["ways"]["published_never"]
    assert 1 == never["versions"] < weekly_["versions"] < report["metrics"]["days"]
    mixed = ways["stale_consumer"].items_RK
    assert not np.array_equal(mixed, ways["published_never"].items_RK)
    assert not np.array_equal(mixed, ways["stale_towers"].items_RK)


def test_a_control_whose_weights_have_another_name_now_is_refused(folder: Path, sparc: OnlineSparc):
    data, _ = read(folder)
    queries = next(iter(data.log.days())).queries
    sparc.answer(queries)
    void = Mixed(sparc.retrieval_model, sparc.publisher, oldest=("sparc.user_pyramid.",))
    with pytest.raises(ValueError, match="user_pyramid"):
        void.answer(sparc.served, queries)


def test_the_process_computes_as_before_once_a_run_has_ended(report: dict[str, Any]):
    assert np.float32(1e-39) * np.float32(0.5) > 0, "denormal numbers must be back"
    assert report["versions"]["numpy"] == np.__version__


def test_a_version_is_held_for_its_interval(sparc: OnlineSparc, folder: Path):
    data, _ = read(folder)
    asked = []

    class Version:
        def __init__(self, day: int) -> None:
            self.day = day

        def answer(self, queries: Any) -> None:
            asked.append((queries.day, self.day))

    way = PublishedEvery(7)
    for day in data.log.days():
        way.answer(Version(day.queries.day), day.queries)  # type: ignore[arg-type]
    assert all(0 <= day - version < 7 for day, version in asked)
    assert way.versions == len({version for _, version in asked}) > 1


def test_weekly_curves_are_those_of_the_answers(folder: Path, report: dict[str, Any]):
    data, _ = read(folder)
    served = predictions.read(folder / "sparc" / "predictions.parquet")
    assert report["weekly"] == weekly(data.log.events, data.items, served)
