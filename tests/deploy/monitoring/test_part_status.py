from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from deploy.local.progress import describe
from deploy.monitoring import moment
from deploy.monitoring.part_figures import FIGURES
from deploy.monitoring.part_status import TYPES, is_alive, read_status, read_statuses, reporter
from streaming.statuses import (
    IndexerStatus,
    ReplayStatus,
    ServiceStatus,
    StreamStatus,
    TrainerStatus,
)


def test_a_report_is_read_back_with_its_author_and_time(tmp_path: Path) -> None:
    reporter(tmp_path, "train")(TrainerStatus(trained_events=12_345, recall_at_50=0.25))
    status = read_status(tmp_path, TrainerStatus)
    assert status.trained_events == 12_345
    assert status.pid > 0
    now = moment.now()
    assert status.updated_at == pytest.approx(now.wall, abs=5)
    assert is_alive(status, now)
    assert not is_alive(status, now._replace(seconds=now.seconds + 60))
    assert describe(status) == "trained 12,345 · recall@50 0.2500"


def test_what_was_set_aside_is_shown_where_there_is_any() -> None:
    assert describe(TrainerStatus(trained_events=9, quarantined=0)) == "trained 9"
    assert describe(TrainerStatus(trained_events=9, quarantined=256)).endswith("set aside 256")


def test_late_clicks_and_dead_letters_are_shown_once_they_are_known() -> None:
    job = StreamStatus(job_state="RUNNING", lag=0)
    assert describe(job.and_says(late=None, dead_letters=None)) == "job RUNNING · lag 0"
    said = describe(job.and_says(late=0, dead_letters=3))
    assert said == "job RUNNING · lag 0 · late 0 · dead letters 3"
    catalogue = IndexerStatus(indexed_items=7, withdrawn_items=0, items_refused=2)
    assert describe(catalogue) == "items 7 · refused 2"


def test_parts_that_never_spoke_or_spoke_garbage_are_silent(tmp_path: Path) -> None:
    (tmp_path / "status").mkdir()
    (tmp_path / "status" / "serve.json").write_text("[1", encoding="utf-8")
    statuses = read_statuses(tmp_path)
    assert not statuses.serve.said_anything and not statuses.replay.said_anything
    assert not is_alive(statuses.serve, moment.now())


@pytest.mark.parametrize(("written", "said"), [(None, "an older"), (0, "an older"), (9, "a newer")])
def test_a_report_of_another_version_is_told_and_used_as_far_as_it_is_understood(
    tmp_path: Path, written: int | None, said: str
) -> None:
    reporter(tmp_path, "train")(TrainerStatus(trained_events=7, lag=3))
    path = tmp_path / "status" / "train.json"
    body = orjson.loads(path.read_bytes()) | {"lag": {"clicks": 3}, "new": "words"}
    body.pop("schema_version") if written is None else body.update(schema_version=written)
    path.write_bytes(orjson.dumps(body))
    status = read_status(tmp_path, TrainerStatus)
    assert (status.trained_events, status.lag) == (7, None)
    assert is_alive(status, moment.now())
    assert describe(status) == f"trained 7 · written by {said} version; restart that part"
    assert status.to_json()["new"] == "words"  # shown to people all the same


def test_a_part_tells_what_it_said_and_nothing_else(tmp_path: Path) -> None:
    reporter(tmp_path, "replay")(ReplayStatus(events_read=3, state="staging"))
    body = orjson.loads((tmp_path / "status" / "replay.json").read_bytes())
    assert set(body) == {
        *("part", "pid", "updated_at", "clock", "schema_version"),
        *("events_read", "state"),
    }


def test_every_figure_that_is_shown_is_one_that_its_part_reports() -> None:
    for one in FIGURES:
        assert one.key.partition(".")[0] in TYPES[one.part].model_fields, one
        assert one.terminal or one.page or one.metric or one.mlflow or one.lag or one.rate, one
        assert bool(one.metric) == bool(one.help), one
    assert ServiceStatus.PART == "serve"
