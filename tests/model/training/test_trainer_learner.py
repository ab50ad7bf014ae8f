"""The trainer with the real learner: the same bits with and without crashes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.artifacts import chain
from model.histories import History
from model.learning.config import LearnerConfig
from model.learning.learner import Learner
from model.network import item_tower, quantizer, user_tower
from model.network.sparc_config import SparcConfig
from model.retrieval.retrieval_model import RetrievalModel
from model.tables.row_index import NO_ITEM
from model.training.checkpoint import CheckpointDirectory, Saved
from model.training.training_state import TrainingState
from tests.model.dense_search import every_score
from tests.model.training.crash import Crash, Steps
from tests.model.training.recorded_log import make_log
from tests.model.training.training_run import EVENTS, Kit, Outcome, assert_equal, train

SMALL = LearnerConfig(
    model=SparcConfig(
        item_tower=item_tower.ItemTowerConfig(dimension=16),
        quantizer=quantizer.QuantizerConfig(codes=4),
        user_tower=user_tower.UserTowerConfig(hidden=16),
    ),
    replay_capacity=256,
    chunk=8,
)


class Exhaustive:
    """Ranks the whole catalogue by the model's score."""

    def __init__(self, model: RetrievalModel) -> None:
        self.model = model

    def answer(
        self, histories: Sequence[History], now_ms: np.ndarray, k: int, exclude_history: bool = True
    ) -> np.ndarray:
        model = self.model
        scores_BN = np.concatenate(
            [
                every_score(model, [history], int(now))
                for history, now in zip(histories, now_ms, strict=True)
            ]
        )
        order_BN = np.argsort(-scores_BN, axis=1, kind="stable")[:, :k]
        answers = np.full((len(histories), k), -1, np.int64)
        answers[:, : order_BN.shape[1]] = model.item_ids_N[order_BN]
        return answers

    def followed_by(self, model: RetrievalModel) -> Exhaustive:
        return Exhaustive(model)


def make(state: Any) -> Learner:
    return Learner(SMALL) if state is None else Learner.restore(SMALL, state)


KIT = Kit(make, RetrievalModel.load, Exhaustive)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Steps]:
    steps = Steps(None)
    return train(tmp_path_factory.mktemp("undisturbed"), steps, kit=KIT), steps


def test_the_log_is_trained_answered_and_published(undisturbed: tuple[Outcome, Steps]) -> None:
    result, steps = undisturbed
    assert result.progress["trained_events"] == EVENTS
    metrics = result.handovers[4].facts["metrics"]
    assert metrics["queries"] > 50
    assert metrics["codes_in_use"] > 0
    assert len(result.handovers[4].facts["drift"]) == 4
    assert steps.statuses[-1]["caught_up"]


@pytest.mark.parametrize("longest", [chain.LONGEST, 3])
def test_crashes_change_no_bit(
    undisturbed: tuple[Outcome, Steps],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    longest: int,
) -> None:
    """Also where checkpoints and handovers begin a chain anew."""
    monkeypatch.setattr(chain, "LONGEST", longest)
    expected, steps = undisturbed
    if longest == 3:
        expected = train(tmp_path / "undisturbed", kit=KIT)
    for crash_at in range(9 + longest, steps.count, 40):
        data = tmp_path / str(crash_at)
        with pytest.raises(Crash):
            train(data, Steps(crash_at), kit=KIT)
        assert_equal(train(data, kit=KIT), expected)


WITHDRAWN = dict.fromkeys(range(20, 40), 60_000) | {1: 20_000, 2: 70_000, 3: 70_000, 40: 999_000}


def test_items_are_forgotten_at_the_same_place_whatever_crashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain, "LONGEST", 3)
    steps = Steps(None)
    expected = train(tmp_path / "undisturbed", steps, kit=KIT, withdrawn=WITHDRAWN)
    log, _ = make_log(EVENTS)
    last = {s.target: s.event_time for s in sorted(sum(log, []), key=lambda s: s.event_time)}
    published = [1000 * (n - 1) for n in (48, 96, 144, 150)]
    gone = {
        item_id
        for item_id, since in WITHDRAWN.items()
        if last.get(item_id, 0) <= min((at for at in published if at >= since), default=-1)
    }
    assert 1 < len(gone) < len(WITHDRAWN) - 2  # others were clicked once more
    ids = expected.tensors["rows.learner.tables.catalogue.ids"].tolist()
    assert set(ids) - {NO_ITEM} == set(range(1, 41)) - gone and len(ids) == 40
    assert expected.own["rows.withdrawals.ids"].tolist() == [40]
    for crash_at in range(14, steps.count, 60):
        data = tmp_path / str(crash_at)
        with pytest.raises(Crash):
            train(data, Steps(crash_at), kit=KIT, withdrawn=WITHDRAWN)
        assert_equal(train(data, kit=KIT, withdrawn=WITHDRAWN), expected)


NEW_FIELDS = re.compile(
    r"withdrawals\..*|prequential\.rows|learner\.replay\.(forgotten|kept|users)"
    r"|learner\.tables\.(catalogue\.rows|candidates\.forgotten|\w+\.stepped)"
)
"""What rows of checkpoints hold since users and items can be forgotten."""


def test_a_checkpoint_from_before_anything_was_forgotten_is_gone_on_from(tmp_path: Path) -> None:
    with pytest.raises(Crash):
        train(tmp_path, Steps(60), kit=KIT)

    def saved() -> Saved:
        found = CheckpointDirectory(tmp_path / "checkpoints", 9).newest()
        assert found is not None
        return found

    def state(one: Saved) -> dict[str, torch.Tensor]:
        whole = TrainingState(make, 64, one, 0).save(whole=True)
        (rows,) = whole.rows
        return whole.dense | rows

    parts = [
        {name: x for name, x in part.items() if not NEW_FIELDS.fullmatch(name)}
        for part in saved().rows
    ]
    assert len(parts) > 1
    former, same = state(replace(saved(), rows=parts)), state(saved())
    assert former.keys() == same.keys()
    for name, values in same.items():
        assert name == "learner.replay.users" or torch.equal(former[name], values), name
