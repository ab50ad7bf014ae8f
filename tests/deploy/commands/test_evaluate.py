"""`sparc evaluate` from end to end on a log so small that it takes seconds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from mlflow import MlflowClient
from typer.testing import CliRunner

from deploy.commands.app import app
from deploy.studies import tracking
from tests.conftest import ODD_NAME
from tests.deploy.evaluation_log import write

UNTIL = "2011-02-20"
"""A few days after the warm-up of the made-up log."""


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The options that name events, items and configuration."""
    events, items, config = write(tmp_path_factory.mktemp("log"))
    return ["--events", str(events), "--items", str(items), "--config", str(config)]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study")


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """The command sets logging up for a stream that ends with it."""
    yield
    structlog.reset_defaults()


def sparc(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["evaluate", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["evaluate", *arguments])
    assert result.exit_code == 1, result.output
    [line] = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    return line


def test_peers_and_sparc_are_played_side_by_side_and_never_twice(log: list[str], tmp_path: Path):
    for name in ("popularity", "neighbours", "sparc"):
        out = str(tmp_path / name)
        printed = json.loads(sparc(*log, "--out", out, "--model", name).splitlines()[-1])
        report = json.loads((tmp_path / name / "report.json").read_bytes())
        assert printed == report["metrics"]
        assert report["name"] == name
        assert report["wall_seconds"] > 0
        assert report["machine"]["cores"] > 0
        for picture in ("recall_over_time.png", "coverage.png"):
            assert (tmp_path / name / picture).stat().st_size > 10_000
    assert (tmp_path / "sparc" / "drift.png").exists()
    assert "learner" in report["run"]
    before = (tmp_path / "sparc" / "report.json").stat().st_mtime_ns
    sparc(*log, "--out", str(tmp_path / "sparc"))
    assert (tmp_path / "sparc" / "report.json").stat().st_mtime_ns == before
    sparc(*log, "--out", str(tmp_path / "sparc"), "--seed", "1", "--until", UNTIL)
    assert (tmp_path / "sparc" / "report.json").stat().st_mtime_ns > before


def test_a_run_is_in_mlflow_with_its_settings_metrics_curves_and_plots(
    log: list[str], tmp_path: Path
):
    out = tmp_path / f"{ODD_NAME}?"
    sparc(*log, "--out", str(out), "--model", "popularity")
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    report = json.loads((out / "report.json").read_bytes())
    client = MlflowClient(tracking.database_uri(out))
    experiment = client.get_experiment_by_name("sparc-evaluation")
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["seed"] == "0"
    assert run.data.metrics["recall_at_50"] == pytest.approx(report["metrics"]["recall@50"])
    curve = client.get_metric_history(run.info.run_id, "weekly/recall_at_50")
    assert [one.value for one in curve] == [w["value"] for w in report["weekly"]["recall@50"]]
    names = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert {"report.json", "recall_over_time.png"} <= names


def test_an_evaluation_does_not_need_mlflow(log: list[str], tmp_path: Path):
    away = "http://127.0.0.1:9"
    sparc(*log, "--out", str(tmp_path), "--model", "popularity", "--tracking-uri", away)
    assert (tmp_path / "report.json").exists()


def test_controls_give_a_table_with_a_row_for_each(log: list[str], study: Path):
    options = [*log, "--out", str(study), "--seeds", "0,1", "--until", UNTIL]
    printed = sparc("controls", *options)
    result = json.loads((study / "controls.json").read_bytes())
    assert result["seeds"] == [0, 1]
    rows = {
        "sparc", "no_reserve", "frozen_codebook", "hard_top_1", "equal_quota", "one_user_vector",
        "no_content", "stale_consumer", "stale_towers", "published_never",
    }  # fmt: skip
    assert set(result["metrics"]) == rows
    assert len(printed.splitlines()) == 2 + len(rows)
    served = result["metrics"]["sparc"]["recall@50"]
    assert served["mean"] == pytest.approx(sum(served["values"]) / 2)
    assert served["deviation"] is not None
    lists: dict[str, Any] = {}
    for name in ("sparc", "frozen_codebook", "one_user_vector", "no_content"):
        place = study / "seed-1" / name
        lists[name] = (place / "predictions.parquet").read_bytes()
        assert json.loads((place / "report.json").read_bytes())["seed"] == 1
    assert len(set(lists.values())) == len(lists), "every control must change the answers"


def test_intervals_need_no_training_of_their_own(log: list[str], study: Path):
    options = [*log, "--out", str(study), "--seeds", "0,1", "--until", UNTIL]
    sparc("controls", *options, "--only", "no_content")
    before = (study / "seed-0" / "sparc" / "report.json").stat().st_mtime_ns
    printed = sparc("intervals", *options)
    assert (study / "seed-0" / "sparc" / "report.json").stat().st_mtime_ns == before
    result = json.loads((study / "intervals.json").read_bytes())
    names = ["every event day", "every week", "every month", "never"]
    assert list(result["metrics"]) == names
    assert result["versions"]["every event day"] > result["versions"]["every week"]
    assert result["versions"]["never"] == 1
    assert len(printed.splitlines()) == 2 + len(names)
    assert (study / "intervals.png").stat().st_size > 10_000


def test_what_is_wrong_is_said_in_one_line(log: list[str], tmp_path: Path):
    out = ["--out", str(tmp_path)]
    assert "--items is missing" in refused("--events", "x.csv")
    assert "there are sparc, comirec" in refused(*log, *out, "--model", "sprac")
    assert "2014-13-01" in refused(*log, *out, "--until", "2014-13-01")
    assert "warm-up" in refused(*log, *out, "--until", "2011-02-10")
    assert "0,1,2" in refused("controls", *log, *out, "--seeds", "0;1")
    assert "there are frozen_codebook" in refused("controls", *log, *out, "--only", "none")
    broken = tmp_path / "events.csv"
    broken.write_text("user_id,item_id,time\n1,2,soon\n", encoding="utf-8")
    line = refused("--events", str(broken), *log[2:], *out)
    assert "line 2" in line
    assert "'soon'" in line
    config = tmp_path / "wrong.toml"
    config.write_text("[evaluation]\nreplay_epoch = 1\n", encoding="utf-8")
    assert "replay_epochs" in refused(*log[:4], *out, "--config", str(config))
    config.write_text("[evaluation]\nrehearsals = 1.0\n", encoding="utf-8")
    assert "replay_epochs now" in refused(*log[:4], *out, "--config", str(config))
