from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import structlog
from typer.testing import CliRunner

from deploy import settings as configuration
from deploy.commands.app import app
from deploy.studies.leave_one_out import read
from deploy.studies.runs import recorded_plan, sparc_config
from indexer.evaluation.sparc_by_epochs import SparcByEpochs
from model.evaluation.protocol import ProtocolError
from tests.deploy.evaluation_log import TOML
from tests.model.evaluation.test_leave_one_out import inter_file


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """The command sets logging up for a stream that ends with it."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(TOML, encoding="utf-8")
    return path


def test_sparc_and_a_peer_are_trained_and_tested_and_never_twice(tmp_path: Path, config: Path):
    interactions = inter_file(tmp_path)
    for name in ("neighbours", "sparc"):
        out = tmp_path / name
        arguments = ["evaluate", "loo", "--interactions", str(interactions), "--out", str(out)]
        arguments += ["--model", name, "--config", str(config)]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        report = json.loads((out / "leave_one_out.json").read_bytes())
        assert json.loads(result.stdout.splitlines()[-1]) == report["test"]
        assert (report["users"], report["items"]) == (30, 70)
        assert 0 <= report["test"]["ndcg@10"] <= report["test"]["hr@10"] <= 1
    assert 1 <= len(report["validation_by_epoch"]) <= 2
    assert report["soft_search"].keys() == report["test"].keys()
    before = (out / "leave_one_out.json").stat().st_mtime_ns
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert (out / "leave_one_out.json").stat().st_mtime_ns == before


def test_a_plan_of_before_is_the_same_without_what_is_a_constant_now(config: Path):
    settings = configuration.load(config, written=False)
    learner = dataclasses.asdict(settings.learner_config())
    report = {"run": {"learner": learner | {"clip": 5.0}}}
    assert recorded_plan(report) == {"learner": learner}
    report["run"]["learner"]["clip"] = 1.0
    assert recorded_plan(report) is None


def test_the_copy_of_an_epoch_answers_as_the_model_did_then(tmp_path: Path, config: Path):
    data = read(inter_file(tmp_path), None)
    settings = configuration.load(config, written=False)
    model = SparcByEpochs(data.items, sparc_config(settings, 0), settings.indexer, settings.search)
    model.observe(data.training())
    queries, _ = next(data.queries("validation"))
    losses = [model.epoch(), model.epoch()]
    then = model.answer(queries)
    copied = copy.deepcopy(model)
    losses.append(model.epoch())
    assert np.isfinite(losses).all()
    later = model.answer(queries)
    again = copied.answer(queries)
    assert np.array_equal(then.scores_BK, again.scores_BK)
    assert not np.array_equal(then.scores_BK, later.scores_BK)
    with pytest.raises(RuntimeError, match="train the original"):
        copied.epoch()


def test_features_come_from_a_catalogue_of_the_same_ids_only(tmp_path: Path):
    items = tmp_path / "items.csv"
    rows = "".join(f"{n},title {n},c{n % 3}\n" for n in range(70))
    items.write_text("item_id,title,category\n" + rows, encoding="utf-8")
    with pytest.raises(ProtocolError, match="item 'i0'.*leave the catalogue out"):
        read(inter_file(tmp_path), items)
    interactions = tmp_path / "numbers.inter"
    pairs = "".join(f"u\t{n}\n" for n in (41, 7, 13))
    interactions.write_text("user_id:token\titem_id:token\n" + pairs, encoding="utf-8")
    data = read(interactions, items)
    assert [item.item_id for item in data.items] == [1, 2, 3]
    assert [item.title for item in data.items] == ["title 41", "title 7", "title 13"]
    assert data.items[0].category == "c2"
