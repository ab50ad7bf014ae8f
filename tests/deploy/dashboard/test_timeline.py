from __future__ import annotations

from pathlib import Path

from deploy.commands.snapshots import published
from deploy.dashboard.timeline import Timeline
from deploy.settings import Settings
from model.artifacts.manifest import publish


def test_a_version_of_a_newer_program_is_listed_with_what_is_known_of_it(tmp_path: Path) -> None:
    def write(directory: Path) -> None:
        (directory / "weights").write_bytes(b"x")

    older = {"version": 1, "reason": "interval", "event_time_range": [7, 9]}
    newer = older | {"version": 2, "schema_version": 3, "event_time_range": "yesterday"}
    for version, facts in ((1, older), (2, newer)):
        publish(tmp_path / "snapshots" / f"{version:08d}", "snapshot", facts, write)
    timeline = Timeline(tmp_path).view()["versions"]
    assert [one["trigger"] for one in timeline] == ["interval", "interval"]
    for first, second in (timeline, published(Settings(data_dir=tmp_path))):
        assert (first["trained_until_ms"], first["newer"]) == (9, "")
        assert second["trained_until_ms"] is None
        assert "newer version of this program" in second["newer"]
