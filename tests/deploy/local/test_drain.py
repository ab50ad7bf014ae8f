from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deploy.local.data_directory import UpError, claim, log_name, only_one
from deploy.local.drain import drain_steps, incomplete
from deploy.monitoring.part_status import Statuses
from streaming.job.record import NO_STATE, RecordFile
from streaming.statuses import IndexerStatus, RegistrarStatus, ServiceStatus, TrainerStatus

WHOLE: dict[str, Any] = {
    "events_read": 10,
    "clicks_produced": 10,
    "sequences": 9,
    "late": 0,
    "dead_letters": 0,
    "duplicates": 1,
    "lost": 0,
    "trained_events": 9,
    "catalogue_items": 4,
    "indexed_items": 4,
    "snapshots_published": 2,
    "registered_versions": 2,
}


def test_totals_that_add_up_are_complete() -> None:
    assert incomplete(WHOLE) == ""
    assert incomplete({**WHOLE, "trained_events": 7, "quarantined": 2}) == ""


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("lost", 1, "lost"),
        ("clicks_produced", 9, "clicks_produced"),
        ("trained_events", 8, "trained_events"),
        ("quarantined", 1, "quarantined"),
        ("indexed_items", 3, "indexed_items"),
        ("snapshots_published", 0, "snapshot"),
        ("registered_versions", 1, "registered"),
    ],
)
def test_each_kind_of_loss_is_named(field: str, value: int, said: str) -> None:
    assert said in incomplete({**WHOLE, field: value})


def test_a_drain_waits_for_each_part_in_turn() -> None:
    statuses = Statuses()
    steps = drain_steps(lambda: 9)
    assert [step.done(statuses) for step in steps] == [False] * 4

    train = TrainerStatus(caught_up=True, sequences_read=9, last_handover={"sequence": 3})
    index = IndexerStatus(caught_up=True, handover=2, version=2)
    statuses = Statuses(train=train, index=index)
    assert [step.done(statuses) for step in steps] == [True, False, False, False]

    statuses = replace(
        statuses,
        index=IndexerStatus(caught_up=True, handover=3, version=3),
        register=RegistrarStatus(caught_up=True, last_registered=2),
        serve=ServiceStatus(version=3),
    )
    assert [step.done(statuses) for step in steps] == [True, True, True, False]
    statuses = replace(statuses, register=RegistrarStatus(caught_up=True, last_registered=3))
    assert all(step.done(statuses) for step in steps)


def test_a_trainer_that_is_idle_before_the_stream_has_ended_is_not_done() -> None:
    training = drain_steps(lambda: 9)[0]
    idle = TrainerStatus(caught_up=True, sequences_read=5, last_handover={"sequence": 1})
    assert not training.done(Statuses(train=idle))


def test_a_second_pipeline_on_the_same_directory_is_refused_with_the_pid(tmp_path: Path) -> None:
    import os

    problem: list[str] = []

    def second() -> None:
        try:
            with only_one(tmp_path):
                pass
        except UpError as error:
            problem.append(str(error))

    with only_one(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert f"pid {os.getpid()}" in problem[0]
    with only_one(tmp_path):
        pass


def test_each_log_has_a_data_directory_of_its_own() -> None:
    beauty, toys = Path("a/beauty/events.csv"), Path("a/toys/events.csv")
    assert log_name(beauty, None).startswith("beauty-events-")
    assert log_name(beauty, None) != log_name(toys, None)
    assert log_name(None, None) == "synthetic"


def test_fresh_empties_only_what_is_ours(tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    claim(ours, fresh=False)
    (ours / "kafka").mkdir()
    claim(ours, fresh=False)
    assert (ours / "kafka").is_dir()
    claim(ours, fresh=True)
    assert not (ours / "kafka").exists()
    # What lies elsewhere is not gone on from either.
    assert RecordFile(ours).read().restore == NO_STATE

    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(UpError, match="not of a pipeline"):
        claim(foreign, fresh=True)
    assert (foreign / "thesis.tex").is_file()


def test_what_a_killed_part_had_begun_to_write_is_removed(tmp_path: Path) -> None:
    claim(tmp_path, fresh=False)
    left = [tmp_path / ".partial-served.json-7", tmp_path / "status" / ".partial-train.json-8"]
    (tmp_path / "status").mkdir()
    for path in left:
        path.touch()
    claim(tmp_path, fresh=False)
    assert all(path.exists() for path in left)  # somebody may be at it
    for path in left:
        os.utime(path, (0, 0))
    claim(tmp_path, fresh=False)
    assert not any(path.exists() for path in left)
