"""The tables of docs/RESULTS.md from reports that are made up where only numbers matter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deploy.studies import runs, studies, tables
from tests.benchmarks import quality, quality_tables
from tests.deploy.evaluation_log import read


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two seeds over a small log, with one peer and one control trained anew."""
    folder = tmp_path_factory.mktemp("quality")
    data, settings = read(folder, "2011-02-21")
    place = folder / "small"
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    runs.play("popularity", data, settings, place / "seed-0" / "popularity")
    studies.play_controls(data, settings, place, [0, 1], only=["frozen_codebook"], tracking_uri=uri)
    studies.play_intervals(data, settings, place, [0, 1], tracking_uri=uri)
    return folder


def test_every_part_of_a_study_has_its_table(out: Path):
    found = quality_tables.render(out, ["small"])
    parts = ("models", "targets", "trade-off", "reserve", "exploration", "codebook")
    parts += ("controls", "frozen", "intervals")
    assert set(found) == {f"small-{part}" for part in parts}
    for table in found.values():
        widths = {line.count("|") for line in table.splitlines()}
        assert len(widths) == 1, table
    assert "sparc" in found["small-models"]
    assert "frozen_codebook" not in found["small-models"], "a control is no model of its own"
    assert len(found["small-controls"].splitlines()) == 2 + 8
    assert "over popularity" in found["small-targets"]
    curve = found["small-frozen"].splitlines()[2:]
    assert curve[0].startswith("| 1 |")
    assert curve[-1].startswith("| all |")


def test_tables_go_to_their_places_in_a_document_and_nowhere_else(tmp_path: Path):
    document = tmp_path / "RESULTS.md"
    document.write_text(
        "# Results\n<!-- table: a -->\nold\n<!-- end -->\nmine\n<!-- table: b -->\n<!-- end -->\n"
    )
    assert quality_tables.fill(document, {"a": "| new |", "c": "| lost |"}) == 1
    assert document.read_text() == (
        "# Results\n<!-- table: a -->\n| new |\n<!-- end -->\nmine\n"
        "<!-- table: b -->\n<!-- end -->\n"
    )
    before = document.read_text()
    assert quality_tables.fill(document, {"a": "| new |"}) == 1
    assert document.read_text() == before
    assert quality_tables.fill(tmp_path / "none.md", {"a": ""}) == 0


def made_up(name: str, seed: int, **metrics: float) -> dict[str, Any]:
    values = {metric: 0.1 for metric in tables.COLUMNS} | metrics
    retrieval = {"kept": 0.98, "share_scored": 0.15, "codes": 8}
    return {
        "name": name,
        "seed": seed,
        "metrics": values,
        "wall_seconds": 60.0,
        "retrieval": retrieval,
    }


def test_a_target_is_met_or_missed_by_the_mean_over_seeds_against_the_best_peer(tmp_path: Path):
    reports = {
        "sparc": [
            made_up("sparc", 0, **{"recall@50": 0.25, "ndcg@50": 0.10}),
            made_up("sparc", 1, **{"recall@50": 0.27, "ndcg@50": 0.10}),
        ],
        "neighbours": [made_up("neighbours", 0, **{"recall@50": 0.2, "ndcg@50": 0.099})],
        "mind": [made_up("mind", 0, **{"recall@50": 0.24, "ndcg@50": 0.05})],
    }
    lines = quality_tables.targets(tmp_path, reports).splitlines()
    rows = {line.split(" | ")[0].strip("| "): line for line in lines}
    assert "over mind (.240)" in rows["Recall@50"]
    assert ".260 ±.014 (+8.3 %)" in rows["Recall@50"]
    assert rows["Recall@50"].endswith("| yes |")
    assert "over neighbours" in rows["NDCG@50"]
    assert rows["NDCG@50"].endswith("| **no** |")
    assert rows["retrieval"].endswith("| yes |")
    assert rows["cold-item Recall@50"].endswith("| yes |")


def test_means_carry_their_deviation():
    found = tables.summary([{"a": 0.2, "b": None}, {"a": 0.4, "b": 1.0}])
    assert set(found) == {"a"}
    assert found["a"]["mean"] == pytest.approx(0.3)
    assert found["a"]["deviation"] == pytest.approx(0.2 / 2**0.5)
    assert tables.cell(found["a"]) == ".300 ±.141"
    change = tables.against(found, tables.summary([{"a": 0.3}, {"a": 0.4}]), "a")
    assert change["by_seed"] == pytest.approx([0.5, 0.0])
    assert change["mean"] == pytest.approx(0.25)


def test_all_runs_of_a_dataset_are_planned_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    played: list[list[str]] = []
    monkeypatch.setattr(quality, "run", lambda command, log: played.append(command) or True)
    data = tmp_path / "data" / "small"
    data.mkdir(parents=True)
    (data / "events.csv").touch()
    arguments = ["--out", str(tmp_path / "out"), "--data", str(tmp_path / "data")]
    assert quality.main([*arguments, "--datasets", "small", "--document", str(tmp_path)]) == 0
    assert len({tuple(command) for command in played}) == len(played)
    models = [c[c.index("--model") + 1] for c in played if "--model" in c and "loo" not in c]
    assert sorted(models) == sorted(["sparc"] * 3 + list(runs.PEERS))
    assert [c[0] for c in played if c[0] in ("controls", "intervals")] == ["controls", "intervals"]
    assert json.loads(json.dumps(played)) == played
