"""A repeatable trainer: what it learns follows from the records, not from how they arrive."""

from __future__ import annotations

import dataclasses
import json
import random
import threading
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.retrieval.retrieval_model import RetrievalModel
from model.training import publish_schedule
from model.training.backlog import Backlog
from model.training.checkpoint import CheckpointDirectory
from model.training.config import TrainerConfig
from model.training.handover import HandoverDirectory
from model.training.journal import RocksJournal
from model.training.log_end import forget_log_end, read_log_end, write_log_end
from model.training.micro_batch import MicroBatch, Polled
from model.training.trainer import Trainer
from streaming.events import UserSequence
from streaming.items import Item
from tests.model.training.in_memory import RecordedSource
from tests.model.training.recorded_log import SteppedClock, make_log
from tests.model.training.test_trainer_learner import KIT

EVENTS = 260


class Arriving(RecordedSource):
    """A log that arrives in pieces: items first, as a replay announces them."""

    def __init__(
        self,
        sequences: list[list[UserSequence]],
        items: list[Item],
        dice: random.Random,
        stop: threading.Event | None = None,
        clock: SteppedClock | None = None,
    ) -> None:
        super().__init__(sequences, items)
        self._dice, self._stop, self._clock = dice, stop, clock
        self._here = [0] * len(sequences)
        self._items_here = 0
        self.told = False
        self._rest = 0

    def poll(self, enough: Collection[int]) -> Polled:
        dice = self._dice
        if self._clock is not None:
            self._clock.time += dice.choice((0.0, 0.01, 0.5, 3.0, 40.0))
        if self._items_here < len(self._items):
            self._items_here = min(len(self._items), self._items_here + dice.randrange(30))
        elif dice.random() < 0.7:
            for p, of in enumerate(self._sequences):
                self._here[p] = min(len(of), self._here[p] + dice.randrange(70))
        over = all(n == len(of) for n, of in zip(self._here, self._sequences, strict=True))
        if over and not self.told:
            self._rest += 1
            self.told = self._rest > 2
        elif self.told and self._stop is not None:
            self._rest += 1
            if self._rest > 200:
                self._stop.set()
        full = self._sequences, self._items
        self._sequences = [of[:n] for of, n in zip(full[0], self._here, strict=True)]
        self._items = full[1][: self._items_here]
        polled = super().poll(enough)
        self._sequences, self._items = full
        ends = {p: len(of) for p, of in enumerate(full[0])}
        return dataclasses.replace(polled, final=False, log_ends=ends if self.told else {})


def cut_all(source: Arriving, batch_size: int, repeatable: bool) -> list[MicroBatch]:
    backlog = Backlog({}, batch_size, 25, 3, repeatable)
    batches: list[MicroBatch] = []
    while not (source.told and backlog.exhausted() and not backlog):
        waited = source._dice.random() < 0.5 or source.told
        batch = backlog.cut(waited)
        if batch is not None:
            batches.append(batch)
        else:
            backlog.offer(source.poll(backlog.enough()))
    return batches


def content(batches: list[MicroBatch]) -> list[Any]:
    return [
        ([s.event_id for s in b.sequences], [i.item_id for i in b.items], b.plan.catching_up)
        for b in batches
    ]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 40), st.integers(0, 99), st.integers(0, 99))
def test_micro_batches_do_not_depend_on_arrival(
    partitions: int, batch_size: int, one: int, other: int
) -> None:
    log, items = make_log(150, items=60, partitions=partitions)
    a, b = (
        content(cut_all(Arriving(log, items, random.Random(seed)), batch_size, True))
        for seed in (one, other)
    )
    assert a == b
    assert [len(s) for s, _, _ in a if s][:-1] == [batch_size] * ((150 - 1) // batch_size)
    assert sum((s for s, _, _ in a), []) == [f"{n:032x}" for n in range(150)]
    assert sum((i for _, i, _ in a), []) == list(range(1, 61))


def test_without_it_they_do() -> None:
    log, items = make_log(150, items=60, partitions=2)
    cuts = [content(cut_all(Arriving(log, items, random.Random(s)), 16, False)) for s in range(5)]
    assert any(cut != cuts[0] for cut in cuts)


def run(data: Path, seed: int, repeatable: bool = True, partitions: int = 1) -> dict[str, Any]:
    """A whole run; in every seed the records arrive in another way, and the clock goes another."""
    log, items = make_log(EVENTS, items=60, partitions=partitions)
    stop, clock = threading.Event(), SteppedClock()
    config = TrainerConfig(
        batch_size=32,
        catch_up_from=50,
        repeatable=repeatable,
        publish=publish_schedule.PublishConfig(
            events=80, drift_every=2, drift=0.3, pause_seconds=0.0
        ),
        checkpoint_events=100,
        keep_handovers=50,
    )
    journal = RocksJournal(data / "journal")
    try:
        Trainer(
            KIT.learner,
            Arriving(log, items, random.Random(seed), stop, clock),
            journal,
            CheckpointDirectory(data / "checkpoints", 2),
            HandoverDirectory(data / "handover", 50, RetrievalModel.load),
            KIT.answerer,
            config,
            clock,
        ).run(stop, lambda _: None)
    finally:
        journal.close()
    return handed_over(data)


def handed_over(data: Path) -> dict[str, Any]:
    """Every array of every handover, and all of its facts but the offsets."""
    from safetensors.numpy import load_file

    found: dict[str, Any] = {}
    for path in sorted((data / "handover").iterdir()):
        facts = json.loads((path / "manifest.json").read_bytes())
        facts = facts.get("facts", facts)
        found[path.name] = (
            load_file(path / "weights.safetensors"),
            {k: v for k, v in facts.items() if k not in ("offsets", "files", "created_at")},
        )
    return found


def assert_same_bits(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for number, (arrays, facts) in one.items():
        assert facts == other[number][1], number
        assert arrays.keys() == other[number][0].keys()
        for name, array in arrays.items():
            assert np.array_equal(array, other[number][0][name], equal_nan=True), (number, name)


@pytest.mark.parametrize("partitions", [1, 3])
def test_every_array_of_every_handover_has_the_same_bits(tmp_path: Path, partitions: int) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    runs = [run(tmp_path / str(seed), seed, partitions=partitions) for seed in (1, 2)]
    torch.set_num_threads(threads)
    assert len(runs[0]) >= 4
    assert "words_WD" in next(iter(runs[0].values()))[0]
    assert_same_bits(*runs)


def test_without_it_not_even_the_handovers_are_as_many(tmp_path: Path) -> None:
    one, other = (run(tmp_path / str(seed), seed, repeatable=False) for seed in (1, 2))
    assert one.keys() != other.keys()


def test_a_partition_that_is_silent_is_waited_for_until_the_log_has_ended() -> None:
    (log,), _ = make_log(20, partitions=1)
    source = RecordedSource([log, []])
    backlog = Backlog({}, 5, 100, repeatable=True)
    polled = source.poll(())
    backlog.offer(dataclasses.replace(polled, log_ends={}))
    assert backlog.exhausted()
    assert backlog.cut(waited=True) is None
    nothing = Polled(ends=polled.ends, log_ends={0: 20, 1: 0})
    backlog.offer(nothing)
    cut = [len(backlog.cut(waited=False).sequences) for _ in range(4)]  # type: ignore[union-attr]
    assert cut == [5] * 4


def test_the_end_of_the_log_is_noted_and_forgotten(tmp_path: Path) -> None:
    assert read_log_end(tmp_path) == {}
    write_log_end(tmp_path, {1: 7, 0: 12})
    assert read_log_end(tmp_path) == {0: 12, 1: 7}
    (tmp_path / "trainer" / "log_end.json").write_text("[")
    assert read_log_end(tmp_path) == {}
    forget_log_end(tmp_path)
    forget_log_end(tmp_path)
    assert read_log_end(tmp_path) == {}
