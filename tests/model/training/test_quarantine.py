"""A micro-batch that cannot be learnt is set aside, and the rest is as if it had been empty."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from model.learning.errors import NotFiniteError
from model.learning.learner import Learner
from model.training.micro_batch import TrainerError
from streaming.bounds import DAY_MS
from streaming.events import UserSequence
from tests.model.synthetic_stream import make_items, make_sequences
from tests.model.training.crash import Crash, Steps
from tests.model.training.stand_in_learner import StandInLearner
from tests.model.training.test_trainer_learner import SMALL
from tests.model.training.test_trainer_learner import make as make_learner
from tests.model.training.training_run import CONFIG, EVENTS, Kit, assert_equal, train


def refusing(*events: int) -> Callable[[Any], StandInLearner]:
    """A learner that breaks on micro-batches that hold one of these events, and stays broken."""
    ids = {f"{n:032x}" for n in events}

    class Refusing(StandInLearner):
        def learn(
            self, batch: Sequence[UserSequence], catching_up: bool = False
        ) -> dict[str, float]:
            losses = super().learn(batch, catching_up)
            if ids & {s.event_id for s in batch} or not bool(self.weights_C.isfinite().all()):
                self.weights_C = torch.full_like(self.weights_C, torch.nan)
                raise NotFiniteError("the loss is not finite (items nan)")
            return losses

    return Refusing


@pytest.fixture
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def test_it_is_set_aside_counted_and_told_of_and_training_goes_on(tmp_path: Path) -> None:
    steps = Steps(None)
    result = train(tmp_path, steps, kit=Kit(refusing(70)))
    progress = result.progress
    assert progress["quarantined"] == CONFIG.batch_size
    assert progress["quarantined_batches"] == 1
    assert progress["quarantined_in_a_row"] == 0
    assert progress["trained_events"] == EVENTS - CONFIG.batch_size
    assert progress["sequences_read"] == EVENTS
    assert progress["items_listed"] == 40
    assert sum(progress["offsets"]["sequences"].values()) == EVENTS
    status = steps.statuses[-1]
    assert status["caught_up"]
    assert status["quarantined"] == CONFIG.batch_size
    (file,) = (tmp_path / "quarantine").iterdir()
    facts = json.loads(file.read_bytes())
    assert facts == status["last_quarantine"]
    assert facts["reason"] == "the loss is not finite (items nan)"
    assert facts["events"] == sum(end - start for start, end in facts["sequences"].values())
    assert facts["times"][0] <= 70_000 <= facts["times"][1]


def test_what_follows_is_as_if_its_events_had_never_come(tmp_path: Path) -> None:
    """The state of before goes on: no trace of the attempt is left in it."""

    class Skipping(StandInLearner):
        def learn(
            self, batch: Sequence[UserSequence], catching_up: bool = False
        ) -> dict[str, float]:
            if f"{70:032x}" in {s.event_id for s in batch}:
                return {}
            return super().learn(batch, catching_up)

    broken = train(tmp_path / "broken", kit=Kit(refusing(70)))
    skipped = train(tmp_path / "skipped", kit=Kit(Skipping))
    # fewer events came to be learnt, so the handover before the last one came at another time
    learnt = skipped.tensors.keys() - {"learner.exported"}
    for name in learnt:
        assert torch.equal(skipped.tensors[name], broken.tensors[name]), name


@pytest.mark.usefixtures("unsynced")
@pytest.mark.parametrize("events", [(70,), (3,), (60, 64, 149)])
def test_a_crash_at_any_step_changes_nothing(tmp_path: Path, events: tuple[int, ...]) -> None:
    steps, kit = Steps(None), Kit(refusing(*events))
    expected = train(tmp_path / "undisturbed", steps, kit=kit)
    assert expected.progress["quarantined_batches"] >= 1
    files = sorted(p.name for p in (tmp_path / "undisturbed" / "quarantine").iterdir())
    for crash_at in range(1, steps.count + 1, 7):
        data = tmp_path / str(crash_at)
        with pytest.raises(Crash):
            train(data, Steps(crash_at), kit=kit)
        assert_equal(train(data, kit=kit), expected)
        assert sorted(p.name for p in (data / "quarantine").iterdir()) == files


def test_a_state_that_is_broken_does_not_pass_over_everything(tmp_path: Path) -> None:
    kit = Kit(refusing(*range(48, EVENTS)))
    for _ in range(2):  # also at the next start
        with pytest.raises(TrainerError, match=r"3 micro-batches in a row.*learning_rate"):
            train(tmp_path, kit=kit)
        assert len(list((tmp_path / "quarantine").iterdir())) == 3
    result = train(tmp_path)  # with a learner that can
    assert result.progress["trained_events"] == EVENTS - 3 * CONFIG.batch_size
    assert result.progress["quarantined"] == 3 * CONFIG.batch_size


def test_it_may_be_told_to_set_aside_none_or_more(tmp_path: Path) -> None:
    kit = Kit(refusing(*range(48, EVENTS)))
    with pytest.raises(TrainerError, match="0 micro-batches in a row"):
        train(tmp_path / "none", config=dataclasses.replace(CONFIG, quarantine_in_a_row=0), kit=kit)
    more = dataclasses.replace(CONFIG, quarantine_in_a_row=99)
    result = train(tmp_path / "more", config=more, kit=kit)
    assert result.progress["trained_events"] == 48


def exploding(state: Any) -> Learner:
    """The real learner, of which one micro-batch's z is beyond all numbers."""
    learner = make_learner(state)
    whole = learner._sparc.item_tower.whole
    last = ""

    def learn(batch: Sequence[UserSequence], **how: Any) -> dict[str, float]:
        nonlocal last
        last = batch[-1].event_id
        return Learner.learn(learner, batch, **how)

    def burst(*arguments: Any) -> torch.Tensor:
        z = whole(*arguments)
        return z * float("inf") if last == f"{95:032x}" else z

    learner.learn = learn  # type: ignore[method-assign]
    learner._sparc.item_tower.whole = burst  # type: ignore[method-assign]
    return learner


def test_the_real_learner_goes_on_with_the_weights_of_before(tmp_path: Path) -> None:
    from model.retrieval.retrieval_model import RetrievalModel
    from tests.model.training.test_trainer_learner import Exhaustive

    kit = Kit(exploding, RetrievalModel.load, Exhaustive)
    result = train(tmp_path, kit=kit)
    assert result.progress["quarantined_batches"] == 1
    for name, tensor in result.tensors.items():
        if tensor.is_floating_point():
            assert bool(tensor.isfinite().all()), name


@pytest.mark.parametrize("where", ["gradient", "weight"])
def test_a_gradient_or_a_weight_that_is_not_finite_is_noticed(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = make_items(12)
    learner = Learner(SMALL)
    learner.list_items(items)
    batch = make_sequences(items, 30)
    learner.learn(batch[:15])
    parameter = next(learner._sparc.parameters())
    if where == "gradient":
        parameter.register_hook(lambda gradient: gradient * float("inf"))
    else:
        step = learner._optimizer.step

        def burst() -> None:
            step()
            with torch.no_grad():
                parameter.fill_(torch.inf)

        monkeypatch.setattr(learner._optimizer, "step", burst)
    with pytest.raises(NotFiniteError, match=where):
        learner.learn(batch[15:])


def test_one_example_alone_is_learnt() -> None:
    """The first click of a shop, and each one of a shop with few."""
    items = make_items(12)
    learner = Learner(SMALL)
    learner.list_items(items)
    for sequence in make_sequences(items, 3):
        assert learner.learn([sequence])["loss"] < 1e6
    late = dataclasses.replace(sequence, position=9, event_time=sequence.event_time + DAY_MS)
    assert learner.learn([late] * 5)["loss"] < 1e9
