from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import torch

from model.training import publish_schedule
from model.training.config import TrainerConfig
from model.training.micro_batch import Polled, TrainerError
from model.training.progress import Progress
from model.training.source import SourceUnavailable
from model.training.trainer import Trainer
from streaming.events import UserSequence
from streaming.items import Item
from tests.model.training.in_memory import (
    MemoryCheckpoints,
    MemoryHandovers,
    MemoryJournal,
    RecordedSource,
)
from tests.model.training.recorded_log import SteppedClock, make_log
from tests.model.training.stand_in_learner import StandInAnswerer, StandInLearner

NEVER = 1e9
QUIET = publish_schedule.PublishConfig(
    events=10**9, seconds=NEVER, idle_seconds=NEVER, drift=NEVER, pause_seconds=0
)


class LiveSource(RecordedSource):
    """A source that goes on: at each time of the clock, some of the records are there."""

    def __init__(
        self,
        log: list[list[UserSequence]],
        items: list[Item],
        clock: SteppedClock,
        arrivals: list[tuple[float, int]],
        stop: threading.Event,
        until: float,
    ) -> None:
        super().__init__([[]], [])
        self._all, self._items, self._clock = log[0], items, clock
        self._arrivals, self._stop, self._until = arrivals, stop, until
        self.away: tuple[float, float] | None = None

    def poll(self, enough: Collection[int]) -> Polled:
        now = self._clock.now()
        if now >= self._until:
            self._stop.set()
        if self.away and self.away[0] <= now < self.away[1]:
            raise SourceUnavailable("Kafka at nowhere:1 is not available")
        there = max((count for at, count in self._arrivals if at <= now), default=0)
        self._sequences = [self._all[:there]]
        return dataclasses.replace(super().poll(enough), final=False)


def live(
    arrivals: list[tuple[float, int]],
    until: float = 100.0,
    publish: publish_schedule.PublishConfig = QUIET,
    away: tuple[float, float] | None = None,
    learner: Any = StandInLearner,
    **config: Any,
) -> tuple[Progress, list[dict[str, Any]], MemoryHandovers]:
    """A run in which (time, number of sequences that have arrived by then) is given."""
    log, items = make_log(max(n for _, n in arrivals), partitions=1)
    clock, stop, statuses = SteppedClock(), threading.Event(), []
    source = LiveSource(log, items, clock, arrivals, stop, until)
    source.away = away
    handovers = MemoryHandovers()
    trainer = Trainer(
        learner,
        source,
        MemoryJournal(),
        MemoryCheckpoints(),
        handovers,
        StandInAnswerer,  # type: ignore[arg-type]
        TrainerConfig(batch_size=10, publish=publish, **config),
        clock,
    )
    progress = trainer.run(stop, lambda s: statuses.append(s.to_json() | {"at": clock.now()}))
    return progress, statuses, handovers


def reasons(handovers: MemoryHandovers) -> list[tuple[str, int]]:
    return [(f["reason"], f["trained_events"]) for f in handovers.facts]


def test_it_publishes_after_so_many_events() -> None:
    publish = dataclasses.replace(QUIET, events=20)
    _, _, handovers = live([(0, 55)], publish=publish)
    assert reasons(handovers) == [("interval", 20), ("interval", 40)]
    assert [f["sequence"] for f in handovers.facts] == [1, 2]


def test_it_publishes_after_so_much_event_time() -> None:
    publish = dataclasses.replace(QUIET, event_time_seconds=25.0)
    _, _, handovers = live([(0, 80)], publish=publish)
    assert reasons(handovers) == [("interval", 30), ("interval", 60)]


def test_it_publishes_so_long_after_the_first_unpublished_event() -> None:
    publish = dataclasses.replace(QUIET, seconds=30.0)
    _, statuses, handovers = live([(5, 10), (10, 20), (50, 30)], publish=publish)
    assert reasons(handovers) == [("seconds", 20), ("seconds", 30)]
    published = [s["at"] for s in statuses if s["last_handover"].get("sequence")]
    assert 35 <= published[0] < 36


def test_it_publishes_when_there_is_nothing_left_to_train() -> None:
    publish = dataclasses.replace(QUIET, idle_seconds=2.0)
    _, statuses, handovers = live([(0, 10), (1, 20), (2, 27)], publish=publish)
    assert reasons(handovers) == [("idle", 27)]
    assert statuses[-2]["caught_up"]


def test_a_trickle_of_events_does_not_become_a_flood_of_handovers() -> None:
    publish = dataclasses.replace(QUIET, idle_seconds=1.0, pause_seconds=20.0)
    _, _, handovers = live([(4.0 * n, n + 1) for n in range(25)], publish=publish)
    assert len(handovers.facts) <= 100 / 20 + 1


def test_it_publishes_when_codes_drift() -> None:
    publish = dataclasses.replace(QUIET, drift=0.05, drift_codes=0.3, drift_every=2)
    _, _, handovers = live([(0, 100)], publish=publish)
    assert {reason for reason, _ in reasons(handovers)} == {"drift"}
    assert all(trained % 20 == 0 for _, trained in reasons(handovers))


def test_a_partial_batch_is_trained_after_lingering() -> None:
    progress, statuses, _ = live([(0, 10), (3, 14)], linger_seconds=2.0)
    assert progress.trained_events == 14
    seen = {s["trained_events"]: s["at"] for s in reversed(statuses)}
    assert 5 <= seen[14] < 7


def test_it_catches_up_while_much_waits_and_takes_its_time_again() -> None:
    caught_up: list[bool] = []

    class Noting(StandInLearner):
        def learn(
            self, batch: Sequence[UserSequence], catching_up: bool = False
        ) -> dict[str, float]:
            caught_up.append(catching_up)
            return super().learn(batch, catching_up)

    arrivals = [(0.0, 10), (20.0, 70), (60.0, 80)]
    progress, _, _ = live(arrivals, learner=Noting, catch_up_from=30)
    assert progress.trained_events == 80
    # 50 and 40 wait behind the second and the third
    assert caught_up == [False] + 2 * [True] + 5 * [False]
    caught_up.clear()
    live(arrivals, learner=Noting, catch_up_from=0)
    assert caught_up == 8 * [False]


def test_a_repeated_sequence_is_counted_and_not_trained() -> None:
    (log,), items = make_log(40, partitions=1)
    doubled = [s for n, s in enumerate(log) for s in ([s, log[n // 2]] if n % 3 == 0 else [s])]
    runs = [_recorded(sequences, items, batch_size=1) for sequences in (log, doubled)]
    assert runs[1][0].trained_events == runs[0][0].trained_events == 40
    assert runs[1][0].repeated == len(doubled) - 40
    assert runs[1][0].sequences_read == len(doubled)


def _recorded(
    sequences: list[Any], items: list[Any], learner: Any = StandInLearner, **config: Any
) -> tuple[Progress, MemoryHandovers, list[dict[str, Any]]]:
    handovers, statuses = MemoryHandovers(), []
    trainer = Trainer(
        learner,
        RecordedSource([sequences], items),
        MemoryJournal(),
        MemoryCheckpoints(),
        handovers,
        StandInAnswerer,  # type: ignore[arg-type]
        TrainerConfig(publish=QUIET, **config),
        SteppedClock(),
    )
    return (
        trainer.run(threading.Event(), lambda s: statuses.append(s.to_json())),
        handovers,
        statuses,
    )


def test_a_recorded_source_ends_with_everything_trained_and_published() -> None:
    (log,), items = make_log(75, partitions=1)
    progress, handovers, statuses = _recorded(log, items, batch_size=32)
    assert progress.trained_events == 75
    assert progress.micro_batches == 3
    assert reasons(handovers) == [("final", 75)]
    assert statuses[-1]["caught_up"]
    assert statuses[-1]["lag"] == 0


def test_poison_is_counted_and_the_rest_is_trained() -> None:
    (log,), items = make_log(30, partitions=1)
    broken: list[Any] = [*log[:7], b"{", *log[7:20], b"[]", b"null", *log[20:], b"\xff"]
    progress, _, statuses = _recorded(broken, [b"{}", *items], batch_size=8)
    assert progress.trained_events == 30
    assert progress.poison == 5
    assert statuses[-1]["lag"] == 0
    assert progress.offsets["sequences"] == {0: 34}


def test_only_poison_leaves_no_lag_behind() -> None:
    progress, handovers, statuses = _recorded([b"{", b"}"], [])
    assert progress.poison == 2
    assert statuses[-1]["caught_up"]
    assert handovers.facts == []


def test_an_event_on_an_unlisted_item_is_trained_and_counted() -> None:
    class Tolerant(StandInLearner):
        def learn(self, batch: Any, catching_up: bool = False) -> dict[str, float]:
            self.list_items([Item(s.target) for s in batch])
            return super().learn(batch, catching_up)

    (log,), items = make_log(30, partitions=1)
    progress, _, _ = _recorded(log, items[1:], Tolerant)
    assert progress.unlisted_targets == sum(s.target == 1 for s in log)
    assert progress.trained_events == 30


def test_first_events_are_trained_but_are_no_queries() -> None:
    (log,), items = make_log(60, partitions=1)
    publish = dataclasses.replace(QUIET, events=20)
    _, statuses, _ = live([(0, 60)], publish=publish)
    asked = [s for s in log[20:] if s.history_items]
    assert len(asked) < 40
    assert statuses[-1]["prequential"]["queries"] == len(asked)


def test_a_source_that_comes_back_in_time_costs_nothing() -> None:
    progress, statuses, _ = live([(0, 20), (60, 40)], away=(10, 50), source_timeout_seconds=60)
    assert progress.trained_events == 40
    states = [s["state"] for s in statuses if 11 < s["at"] < 50]
    assert set(states) == {"waiting for the source"}


def test_what_was_trained_is_published_also_while_the_source_is_away() -> None:
    publish = dataclasses.replace(QUIET, idle_seconds=2.0)
    _, statuses, handovers = live([(0, 20)], publish=publish, away=(1, 90))
    assert reasons(handovers) == [("idle", 20)]
    assert statuses[-2]["lag"] == 0


def test_a_source_that_stays_away_ends_the_trainer_with_the_reason() -> None:
    with pytest.raises(TrainerError, match="Kafka at nowhere:1.*waited 30 s.*source_timeout"):
        live([(0, 20)], away=(10, 90), source_timeout_seconds=30)


def test_weights_that_are_not_finite_are_never_handed_over() -> None:
    class Exploding(StandInLearner):
        def learn(self, batch: Any, catching_up: bool = False) -> dict[str, float]:
            self.weights_C = torch.full_like(self.weights_C, torch.nan)
            return {}

    handovers = MemoryHandovers()
    with pytest.raises(TrainerError, match="weights is not finite after micro-batch"):
        _, handovers, _ = _recorded(*_one_log(20), Exploding)
    assert handovers.facts == []


def _one_log(events: int) -> tuple[list[UserSequence], list[Item]]:
    (log,), items = make_log(events, partitions=1)
    return log, items


def test_the_status_is_plain_json_with_all_that_others_look_at() -> None:

    _, statuses, _ = live([(0, 30)], publish=dataclasses.replace(QUIET, events=10))
    status = orjson.loads(orjson.dumps(statuses[-1]))
    assert status["state"] == "stopped"
    assert status["trained_events"] == status["sequences_read"] == 30
    assert status["micro_batches"] == status["handovers"] == 3
    assert status["offsets"] == {"sequences": {"0": 30}, "items": {"0": 40}}
    assert status["last_handover"]["trained_events"] == 30
    assert status["event_time"] == 29_000
    assert 0 <= status["recall_at_50"] <= 1
    assert {"lag", "repeated", "poison", "ndcg_at_50", "codebook", "events_per_second"} <= set(
        status
    )


def test_reports_come_about_once_a_second() -> None:
    _, statuses, _ = live([(0, 10)], until=50)
    times = np.array([s["at"] for s in statuses])
    assert 40 <= len(times) <= 55


def test_the_core_needs_neither_kafka_nor_rocksdict() -> None:
    code = (
        "import sys, model.training.trainer; "
        "print([m for m in ('kafka', 'rocksdict') if m in sys.modules])"
    )
    root = Path(__file__).parents[3]
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert found.stdout.strip() == "[]", found.stderr


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"keep_handovers": 1}, "keep_handovers is 1"),
        ({"workers": 1000}, "trainer.workers is 1000, use 1 to 64"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        TrainerConfig(**wrong)
