"""The index's benchmarks, small: that they run to their end and say what they are to say."""

from __future__ import annotations

import json

from tests.benchmarks import index_update, item_changes, search, swap
from tests.benchmarks.searchers import SEARCHERS


def test_the_update_benchmark_says_what_each_change_costs_beside_a_build(tmp_path):
    out = tmp_path / "update.json"
    arguments = ["--items", "3000", "--codes", "16", "--dimension", "8", "--changes", "2"]
    index_update.main([*arguments, "--out", str(out)])
    result = json.loads(out.read_text())
    assert result["settings"]["seed"] == 0 and result["machine"]["cores"] and result["versions"]
    for place, kinds in (("in_memory", 4), ("on_disk", 2)):
        changes = result[place]["changes"].values()
        assert result[place]["build_seconds"] > 0 and len(changes) == kinds
        assert all(change["seconds"] > 0 and change["share_of_build"] > 0 for change in changes)


def test_the_benchmark_of_changes_says_what_one_costs_who_writes_and_who_reads_it(tmp_path):
    out = tmp_path / "changes.json"
    item_changes.main(["--items", "2000", "--changes", "6", "--out", str(out)])
    result = json.loads(out.read_text())
    assert 1 <= result["files"] <= 2 and result["reader_opens_s"] > 0
    for step in ("one_change_told_ms", "one_change_read_ms", "first_answerable_after_it_ms"):
        assert 0 < result[step]["p50"] <= result[step]["p95"] <= result[step]["p100"]


def test_the_search_benchmark_compares_at_equal_recall_and_draws_the_growth(tmp_path):
    out, picture = tmp_path / "search.json", tmp_path / "growth.png"
    arguments = ["--growth", "1000,2000", "--dimension", "8", "--queries", "20", "--k", "5"]
    search.main([*arguments, "--plot", str(picture), "--out", str(out)])
    result = json.loads(out.read_text())
    assert picture.stat().st_size > 5000 and result["settings"]["seed"] == 0
    for found in result["growth"].values():
        assert found.keys() == SEARCHERS.keys()
        assert found["exhaustive"]["recall"] == 1.0
        assert 0 < found["soft search"]["scored_share"] <= 1
        for one in found.values():
            assert one["recall"] > 0.8 and 0 < one["p50_ms"] <= one["p99_ms"]
            assert one["queries_per_s_two_cores"] > 0 and one["fresh_cpu_s_per_minute"] >= 0


def test_no_search_fails_or_mixes_versions_while_snapshots_are_swapped_and_memory_stays(tmp_path):
    out = tmp_path / "swap.json"
    arguments = ["--items", "2000", "--codes", "16", "--dimension", "16", "--rate", "200"]
    swap.main([*arguments, "--swaps", "30", "--pause", "0.05", "--out", str(out)])
    result = json.loads(out.read_text())
    assert result["swaps"] >= 30 and result["versions_that_answered"] == [1, 2, 3, 4]
    assert result["errors"] == 0 and result["mixed"] == 0 and result["answers"] > 100
    assert result["memory_mib_at_the_end"] < result["memory_mib_when_settled"] + 30
