"""The benchmark of growth, small: that every part runs and every figure is there."""

from __future__ import annotations

import json

from tests.benchmarks import catalogue


def test_the_catalogue_benchmark_runs_all_parts_and_says_what_each_costs(tmp_path, capsys):
    out, picture = tmp_path / "catalogue.json", tmp_path / "growth.png"
    small = "--items 800 --events 512 --publications 1 --warm-up 1 --births 40 --users 120"
    asked = ["--queries", "40", "--exhaustive", "10", "--out", str(out), "--plot", str(picture)]
    catalogue.main([*small.split(), *asked])
    printed = capsys.readouterr().out
    report = json.loads(out.read_text())
    assert report["settings"]["seed"] == 0 and report["machine"]["cores"] and report["versions"]
    one = report["sizes"]["800"]
    for row, path in catalogue.FIGURES.items():
        value = catalogue.figure(one, path)
        assert value is not None and value >= 0, row
        assert f"| {row} |" in printed
    published = one["publication"]
    parts = ("checkpoint_mb", "handover_mb", "snapshot_mb")
    assert abs(sum(published[name] for name in parts) - published["mb"]) < 0.05
    assert len(one["publications"]) == 2 and published["list_vectors_share"] <= 1
    assert one["queries"]["queries"] == 40 and one["queries"]["exhaustive_queries"] == 10
    assert one["queries"]["of_the_exhaustive_answers"] > 0.5
    assert picture.stat().st_size > 5000
