"""`sparc up --data-dir D`: which log it goes on with, and which it refuses before all else."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from deploy import settings as configuration
from deploy.local import known_log, launch
from replay.begun_log import note
from replay.errors import ReplayError

LINES = [f"{n % 50},{n % 37},{1_369_699_200 + 60 * n}" for n in range(3_000)]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[configuration.Settings]:
    """The settings that the pipeline would have been started with."""
    found: list[configuration.Settings] = []

    def supervise(settings: configuration.Settings, *_: Any) -> None:
        found.append(settings)

    monkeypatch.setattr(launch, "programs", lambda settings: [])
    monkeypatch.setattr(launch, "_supervise", supervise)
    monkeypatch.setattr(launch, "point_latest", lambda data_dir: None)
    return found


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "events.csv"
    path.write_text("\n".join(["user_id,item_id,time", *LINES]))
    return path


def start(**wish: Any) -> None:
    launch.run(launch.Wish(**wish), threading.Event())


def begin(data_dir: Path) -> None:
    (data_dir / "replay").mkdir(exist_ok=True)
    note(data_dir / "replay", 100)


def test_without_a_log_it_goes_on_with_the_one_that_it_knows(started, log, tmp_path):
    items = tmp_path / "items.csv"
    items.write_text("item_id,title\n1,Soap\n")
    start(data_dir=tmp_path / "d", events=log, items=items, speedup=5.0)
    begin(tmp_path / "d")
    start(data_dir=tmp_path / "d")
    start(data_dir=tmp_path / "d", rate=7.0)
    start(data_dir=tmp_path / "d")
    start(data_dir=tmp_path / "d", rate=0.0)
    replays = [settings.replay for settings in started]
    assert {(r.events, r.items) for r in replays} == {(log, items)}
    assert [(r.rate, r.speedup) for r in replays] == [(0, 5), (0, 5), (7, 0), (7, 0), (0, 0)]


def test_with_other_items_alone_too(started, log, tmp_path):
    start(data_dir=tmp_path / "d", events=log)
    begin(tmp_path / "d")
    items = tmp_path / "items.csv"
    items.write_text("item_id,title\n1,Soap\n")
    start(data_dir=tmp_path / "d", items=items)
    assert (started[-1].replay.events, started[-1].replay.items) == (log, items)


def test_a_dataset_is_gone_on_with_and_another_one_refused(started, log, tmp_path):
    start(data_dir=tmp_path / "d", dataset="amazon-2014-beauty")
    begin(tmp_path / "d")
    start(data_dir=tmp_path / "d")
    assert started[-1].replay.dataset == "amazon-2014-beauty"
    with pytest.raises(known_log.KnownLogError, match="another log than amazon-2014-toys.*--fresh"):
        start(data_dir=tmp_path / "d", dataset="amazon-2014-toys-and-games")


def test_a_log_that_the_configuration_names_wins(started, log, tmp_path):
    start(data_dir=tmp_path / "d", dataset="amazon-2014-beauty")
    config = tmp_path / "sparc.toml"
    config.write_text(f"[replay]\nevents = '{log}'\n")
    start(data_dir=tmp_path / "d", config=config)
    assert (started[-1].replay.events, started[-1].replay.dataset) == (log, "")


def test_begun_anew_it_is_the_same_log(started, log, tmp_path):
    start(data_dir=tmp_path / "d", events=log)
    begin(tmp_path / "d")
    start(data_dir=tmp_path / "d", fresh=True)
    assert started[-1].replay.events == log


def test_another_log_is_refused_at_once_and_changes_nothing(started, log, tmp_path, monkeypatch):
    start(data_dir=tmp_path / "d", events=log)
    begin(tmp_path / "d")
    other = tmp_path / "other.csv"
    other.write_text("user_id,item_id,time\n7,8,1369699200\n")
    monkeypatch.setattr(launch, "programs", lambda settings: pytest.fail("prepared"))
    before = (tmp_path / "d" / "config.toml").read_bytes()
    began = time.monotonic()
    with pytest.raises(ReplayError, match=r"holds another log.*other.csv line 2.*--fresh"):
        start(data_dir=tmp_path / "d", events=other)
    assert time.monotonic() - began < 2
    assert (tmp_path / "d" / "config.toml").read_bytes() == before
    assert len(started) == 1


def test_a_log_whose_file_is_gone_goes_on_from_its_copy(started, log, tmp_path):
    start(data_dir=tmp_path / "d", events=log)
    begin(tmp_path / "d")
    log.unlink()
    start(data_dir=tmp_path / "d")
    assert started[-1].replay.events == log
