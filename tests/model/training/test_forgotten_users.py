"""A user who is forgotten is in nothing that the trainer keeps, whenever it is killed."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from model.training.backlog import Backlog, assemble
from model.training.checkpoint import CheckpointDirectory
from model.training.config import TrainerConfig
from model.training.micro_batch import Polled, Record
from model.training.trainer import Trainer
from streaming.events import Forgotten, UserSequence, parse_sequence
from tests.model.training import training_run
from tests.model.training.crash import Crash, Steps
from tests.model.training.in_memory import MemoryHandovers, MemoryJournal
from tests.model.training.recorded_log import SteppedClock, make_log
from tests.model.training.stand_in_learner import StandInLearner
from tests.model.training.test_trainer import QUIET, LiveSource
from tests.model.training.training_run import train

USER = 5


def log_with_a_request(at: int = 40, comes_back: bool = True) -> Any:
    """The user's clicks begin anew, at position 1, behind the request, or there are none."""
    sequences, items = make_log(training_run.EVENTS)
    partition: list[UserSequence | Forgotten] = []
    before = 0
    for n, one in enumerate(sequences[USER % 2]):
        if n == at:
            partition.append(Forgotten("request", USER, 0))
            before = sum(s.user_id == USER for s in sequences[USER % 2][:at])
        if one.user_id == USER and n >= at:
            if not comes_back:
                continue
            kept = one.position - before - 1
            one = UserSequence(
                one.event_id, USER, one.event_time, kept + 1, one.history_items[-kept:] if kept
                else [], one.history_times[-kept:] if kept else [], one.target
            )  # fmt: skip
        partition.append(one)
    sequences[USER % 2] = partition
    return sequences, items


def users_in(checkpoints: Path) -> list[set[int]]:
    """The users of each file of rows."""
    found = []
    for path in checkpoints.glob("*/rows-*.safetensors"):
        found.append(set(safetensors.numpy.load_file(path)["positions.users"].tolist()))
    return found


def test_what_is_written_is_read_again() -> None:
    said = Forgotten('e"', -(2**63), 3)
    assert parse_sequence(None, said.to_bytes()) == said
    with pytest.raises(ValueError, match="dropped"):
        parse_sequence(None, said.to_bytes().replace(b":3,", b":-3,"))


def test_a_request_stands_where_it_was_said_and_again_after_a_crash() -> None:
    def sequence(user: int, time: int) -> UserSequence:
        return UserSequence(f"{user}-{time}", user, time, 1, [], [], 4)

    records = {
        0: [Record(0, sequence(1, 10)), Record(2, Forgotten("f", 1)), Record(3, sequence(1, 30))],
        1: [Record(0, sequence(2, 20)), Record(1, Forgotten("g", 2))],
    }
    backlog = Backlog({}, 16, 100)
    ends = {"sequences": {0: 4, 1: 2}, "items": {}}
    backlog.offer(Polled(records, {}, ends, ends))
    batch = backlog.cut(waited=True)
    assert batch is not None
    assert batch.forgotten == [(1, 1), (2, 2)] and batch.plan.events == 3
    assert assemble(batch.plan, {}, records) == batch


def test_nothing_of_the_user_is_left_in_checkpoints(tmp_path: Path, monkeypatch) -> None:
    log = log_with_a_request(comes_back=False)
    monkeypatch.setattr(training_run, "make_log", lambda _: log)
    outcome = train(tmp_path)
    assert outcome.progress["forgotten"] == 1 and outcome.progress["to_forget"] == 0
    sequences = sum(isinstance(s, UserSequence) for part in log[0] for s in part)
    assert outcome.progress["trained_events"] == sequences < training_run.EVENTS
    left = users_in(tmp_path / "checkpoints")
    assert left and all(USER not in users for users in left)


def test_where_nothing_else_comes_checkpoints_are_written_all_the_same(tmp_path: Path) -> None:
    ((log,), items) = make_log(40, partitions=1)
    clock, stop, journal = SteppedClock(), threading.Event(), MemoryJournal()
    source = LiveSource([[*log, Forgotten("f", USER)]], items, clock, [(0, 41)], stop, 200.0)
    trainer = Trainer(
        StandInLearner,
        source,
        journal,
        CheckpointDirectory(tmp_path, 2),
        MemoryHandovers(),
        None,
        TrainerConfig(batch_size=16, publish=QUIET),
        clock,
    )
    progress = trainer.run(stop, lambda _: None)
    assert (progress.forgotten, progress.to_forget) == (1, 0)
    assert users_in(tmp_path)
    assert all(USER not in users for users in users_in(tmp_path))


@pytest.mark.parametrize("at", range(2, 60, 6))
def test_a_crash_changes_nothing_of_it(tmp_path: Path, monkeypatch, at: int) -> None:
    monkeypatch.setattr(training_run, "make_log", lambda _: log_with_a_request())
    steady = train(tmp_path / "steady")
    try:
        train(tmp_path / "killed", Steps(at))
    except Crash:
        killed = train(tmp_path / "killed")
        training_run.assert_equal(steady, killed)
    users = steady.own["rows.positions.users"].numpy()
    assert np.isin(USER, users)  # they came back
