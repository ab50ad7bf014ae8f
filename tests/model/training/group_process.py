"""A rank of a trainer over a made-up log in four partitions, that may be killed at some step."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from model.learning.learner import Learner
from model.ranks import Ranks, joined, place_by_torchrun
from model.retrieval.retrieval_model import RetrievalModel
from model.training.checkpoint import CheckpointDirectory
from model.training.group import Leader, follow
from model.training.handover import HandoverDirectory
from model.training.journal import RocksJournal
from model.training.micro_batch import SEQUENCES, Plan, Polled
from model.training.progress import Progress
from model.training.source import Offsets
from model.training.trainer import Trainer
from streaming.events import Forgotten, UserSequence
from streaming.item_lifetime import ItemsConfig
from streaming.items import Withdrawal
from tests.model.training.in_memory import RecordedSource
from tests.model.training.recorded_log import SteppedClock, make_log
from tests.model.training.test_trainer_learner import SMALL, Exhaustive
from tests.model.training.training_run import CONFIG, EVENTS

PARTITIONS = 4


class OwnPartitions:
    """What a rank reads of a recorded log."""

    def __init__(self, ranks: Ranks) -> None:
        log, items = make_log(EVENTS, partitions=PARTITIONS)
        sequences: list[list[UserSequence | Forgotten]] = [list(of) for of in log]
        sequences[1].insert(20, Forgotten("f" * 32, log[1][3].user_id))
        self._ranks = ranks
        gone = [(Withdrawal(one), 0) for one in range(20, 40)]  # forgotten with the first handover
        self._source = RecordedSource(sequences, [*items, *gone] if ranks.leads else (), 20)

    def _is_ours(self, partition: int) -> bool:
        return partition % self._ranks.size == self._ranks.rank

    def seek(self, offsets: Offsets) -> None:
        self._source.seek(offsets)

    def poll(self, enough: Collection[int]) -> Polled:
        others = {p for p in range(PARTITIONS) if not self._is_ours(p)}
        polled = self._source.poll({*enough, *others})
        for values in (
            polled.sequences,
            polled.next_offsets[SEQUENCES],
            polled.ends[SEQUENCES],
            polled.log_ends,
        ):
            for p in others & values.keys():
                del values[p]
        return polled

    def read(self, plan: Plan) -> Any:
        items, sequences = self._source.read(plan)
        return items, {p: r for p, r in sequences.items() if self._is_ours(p)}

    def close(self) -> None:
        pass


class Watched(Ranks):
    """Kills its process before the collective of a number."""

    def __init__(self, ranks: Ranks, last: int | None) -> None:
        super().__init__(ranks.rank, ranks.size)
        self.done, self._last = 0, last

    def _step(self) -> None:
        self.done += 1
        if self.done == self._last:
            os.kill(os.getpid(), signal.SIGKILL)

    def add_up(self, tensors: Any) -> None:
        self._step()
        super().add_up(tensors)

    def agree(self, tensors: Any) -> None:
        self._step()
        super().agree(tensors)

    def tell(self, message: bytes | None) -> bytes:
        self._step()
        return super().tell(message)

    def collect(self, message: bytes) -> list[bytes]:
        self._step()
        return super().collect(message)


def work(ranks: Ranks, data: Path, last: int | None = None) -> tuple[Progress | None, int]:
    """Train to the end of the log; the leader's progress, and how many steps there were."""
    torch.set_num_threads(1)
    ranks = Watched(ranks, last)

    def make(state: Any) -> Learner:
        if state is None:
            return Learner(SMALL, ranks=ranks)
        return Learner.restore(SMALL, state, ranks=ranks)

    source = OwnPartitions(ranks)
    if not ranks.leads:
        follow(ranks, make, source)
        return None, ranks.done
    leader = Leader(ranks, source, make)
    journal = RocksJournal(data / "journal")
    progress = Trainer(
        leader.learner,
        leader.source,
        journal,
        CheckpointDirectory(data / "checkpoints", CONFIG.keep_checkpoints),
        HandoverDirectory(data / "handover", CONFIG.keep_handovers, RetrievalModel.load),
        Exhaustive,
        CONFIG,
        SteppedClock(),
        items=ItemsConfig(grace_days=0),
    ).run(threading.Event(), lambda status: None)
    leader.end()
    journal.close()
    return progress, ranks.done


def main() -> None:
    """A rank that torchrun starts: `DIRECTORY RANK:STEP...`, where each life but the last ends."""
    place = place_by_torchrun()
    assert place is not None
    data, ends = Path(sys.argv[1]), sys.argv[2:]
    life = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    rank, _, last = (ends[life] if life < len(ends) else "-1:0").partition(":")
    with joined(place) as ranks:
        progress, _ = work(ranks, data, int(last) if int(rank) == place.rank else None)
    if progress is not None:
        (data / "progress.json").write_text(json.dumps(progress.to_json()))


if __name__ == "__main__":
    main()
