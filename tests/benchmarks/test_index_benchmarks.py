"""The index's benchmarks, small: that they run to their end and say what they are to say."""

from __future__ import annotations

import json

from tests.benchmarks import index_update


def test_the_update_benchmark_says_what_each_change_costs_beside_a_build(tmp_path):
    out = tmp_path / "update.json"
    arguments = ["--items", "3000", "--codes", "16", "--dimension", "8", "--repeats", "2"]
    index_update.main([*arguments, "--out", str(out)])
    result = json.loads(out.read_text())
    assert result["settings"]["seed"] == 0 and result["machine"]["cores"] and result["versions"]
    for place, kinds in (("in_memory", 3), ("on_disk", 2)):
        changes = result[place]["changes"].values()
        assert result[place]["build_seconds"] > 0 and len(changes) == kinds
        assert all(change["seconds"] > 0 and change["share_of_build"] > 0 for change in changes)
