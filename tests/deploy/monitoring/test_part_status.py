from __future__ import annotations

from pathlib import Path

import pytest

from deploy.local.progress import describe
from deploy.monitoring import moment
from deploy.monitoring.part_status import is_alive, read_status, read_statuses, reporter


def test_a_report_is_read_back_with_its_author_and_time(tmp_path: Path) -> None:
    reporter(tmp_path, "train")({"trained_events": 12_345, "recall_at_50": 0.25})
    status = read_status(tmp_path, "train")
    assert status["trained_events"] == 12_345
    assert status["pid"] > 0
    now = moment.now()
    assert status["updated_at"] == pytest.approx(now.wall, abs=5)
    assert is_alive(status, now)
    assert not is_alive(status, now._replace(seconds=now.seconds + 60))
    assert describe(status, "train") == "trained 12,345 · recall@50 0.2500"


def test_what_was_set_aside_is_shown_where_there_is_any() -> None:
    assert describe({"trained_events": 9, "quarantined": 0}, "train") == "trained 9"
    assert describe({"trained_events": 9, "quarantined": 256}, "train").endswith("set aside 256")


def test_late_clicks_and_dead_letters_are_shown_once_they_are_known() -> None:
    job = {"job_state": "RUNNING", "lag": 0}
    assert describe(job | {"late": None, "dead_letters": None}, "stream") == "job RUNNING · lag 0"
    said = describe(job | {"late": 0, "dead_letters": 3}, "stream")
    assert said == "job RUNNING · lag 0 · late 0 · dead letters 3"
    catalogue = {"indexed_items": 7, "withdrawn_items": 0, "items_refused": 2}
    assert describe(catalogue, "index") == "items 7 · refused 2"


def test_parts_that_never_spoke_or_spoke_garbage_are_silent(tmp_path: Path) -> None:
    (tmp_path / "status").mkdir()
    (tmp_path / "status" / "serve.json").write_text("[1", encoding="utf-8")
    statuses = read_statuses(tmp_path)
    assert statuses["serve"] == {} == statuses["replay"]
    assert not is_alive(statuses["serve"], moment.now())
