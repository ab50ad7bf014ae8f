"""One process of a trainer over a made-up log, and what it leaves on disk."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from model.artifacts import manifest
from model.artifacts.manifest import Manifest
from model.retrieval.item_segments import ItemSegments
from model.training import publish_schedule
from model.training.checkpoint import CheckpointDirectory
from model.training.config import TrainerConfig
from model.training.handover import HandoverDirectory
from model.training.journal import RocksJournal
from model.training.progress import Progress
from model.training.quarantine import QuarantineDirectory
from model.training.trainer import Trainer
from model.training.training_state import TrainingState
from streaming.item_lifetime import ItemsConfig
from streaming.items import Withdrawal
from tests.model.training.crash import Steps, Watched
from tests.model.training.in_memory import RecordedSource
from tests.model.training.recorded_log import SteppedClock, make_log
from tests.model.training.stand_in_learner import StandInAnswerer, StandInLearner, StandInModel

EVENTS = 150
LEARNING = {"learn", "forget_items", "list_items", "export", "mark_published"}
CONFIG = TrainerConfig(
    batch_size=16,
    catch_up_from=60,  # the first half of the log
    items_per_plan=30,
    publish=publish_schedule.PublishConfig(events=40, seconds=1e9, drift=1e9),
    checkpoint_events=32,
    keep_checkpoints=2,
    keep_handovers=3,
    window_queries=64,
)


def load(directory: Path, manifest: Manifest, items: ItemSegments) -> StandInModel:
    tensors = safetensors.torch.load_file(directory / "weights.safetensors")
    return StandInModel(tensors["items"].tolist(), tensors["popularity"].tolist())


@dataclass
class Kit:
    """What stands behind the trainer: a learner, its published model, and the served path."""

    learner: Callable[[Any], Any] = StandInLearner
    load: Callable[[Path, Manifest, ItemSegments], Any] = load
    answerer: Callable[[Any], Any] = StandInAnswerer


@dataclass
class Outcome:
    """`tensors` are the learner's, `own` the trainer's: all rows, whatever chain they came by."""

    progress: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    own: dict[str, torch.Tensor]
    handovers: dict[int, Manifest]


def train(
    data: Path,
    steps: Steps | None = None,
    config: TrainerConfig = CONFIG,
    kit: Kit | None = None,
    withdrawn: dict[int, int] | None = None,
) -> Outcome:
    """One process: runs the trainer on `data` until the log ends or `steps` crashes it.

    `withdrawn` says at which time (ms) of the log items are withdrawn, and forgotten at once.
    """
    steps, kit = steps or Steps(None), kit or Kit()
    sequences, listed = make_log(EVENTS)
    gone = [(Withdrawal(item_id), time) for item_id, time in (withdrawn or {}).items()]
    items = [*listed, *gone]
    journal = RocksJournal(data / "journal")
    try:
        trainer = Trainer(
            lambda state: Watched(kit.learner(state), steps, LEARNING),
            Watched(RecordedSource(sequences, items, 20), steps, {"poll", "read"}),
            Watched(journal, steps, {"append", "prune"}),
            Watched(
                CheckpointDirectory(data / "checkpoints", config.keep_checkpoints), steps, {"save"}
            ),
            Watched(
                HandoverDirectory(data / "handover", config.keep_handovers, kit.load),
                steps,
                {"publish"},
            ),
            kit.answerer,
            config,
            SteppedClock(),
            QuarantineDirectory(data / "quarantine"),
            ItemsConfig(grace_days=0),
        )
        progress = trainer.run(threading.Event(), lambda status: steps.report(status))
    finally:
        journal.close()
    return outcome(data, progress, config, kit)


def outcome(data: Path, progress: Progress, config: TrainerConfig, kit: Kit) -> Outcome:
    saved = CheckpointDirectory(data / "checkpoints", 9).newest()
    assert saved is not None
    state = TrainingState(kit.learner, config.window_queries, saved, 0).save(whole=True)
    tensors = dict(state.dense)
    for rows in state.rows:
        tensors |= {f"rows.{name}": tensor for name, tensor in rows.items()}
    learnt = {name for name in tensors if name.removeprefix("rows.").startswith("learner.")}
    handovers = {
        int(p.name): manifest.verify(p, "handover") for p in sorted((data / "handover").iterdir())
    }
    plain = json.loads(json.dumps(progress.to_json()))
    return Outcome(
        plain,
        {name: tensors[name] for name in sorted(learnt)},
        {name: tensors[name] for name in sorted(tensors.keys() - learnt)},
        handovers,
    )


def assert_equal(one: Outcome, other: Outcome) -> None:
    """The same bits everywhere."""
    assert one.progress == other.progress
    for these, those in ((one.tensors, other.tensors), (one.own, other.own)):
        assert these.keys() == those.keys()
        for name in these:
            assert torch.equal(these[name], those[name]), name
    assert {n: m.digest for n, m in one.handovers.items()} == {
        n: m.digest for n, m in other.handovers.items()
    }
