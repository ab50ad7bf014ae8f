"""Two drains of one log, the second with every part killed: the model has the same bits.

What is compared is every array of the last handovers (weights, codebooks, codes, places, counts,
neighbours), and what was measured on the way. The log's times are days, as Amazon's are: what has
the same time may come in any order, and would, if nobody put it in one.
"""

from __future__ import annotations

import csv
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.end_to_end.test_pipeline import Run, eventually
from tests.model.training.test_repeatable import assert_same_bits, handed_over

pytestmark = [pytest.mark.end_to_end, pytest.mark.slow, pytest.mark.timeout(1800)]

EVENTS, USERS, ITEMS, DAYS = 6_000, 400, 300, 40
PARTS = (
    ("kafka.Kafka",),
    ("StandaloneSessionClusterEntrypoint",),
    ("taskexecutor.TaskManagerRunner",),
    ("deploy replay",),
    ("deploy stream",),
    ("deploy train",),
    ("deploy index",),
    ("deploy register",),
    ("deploy serve",),
)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dice = np.random.default_rng(5)
    path = tmp_path_factory.mktemp("log") / "events.csv"
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("user_id", "item_id", "time"))
        seen = set[tuple[int, int, int]]()
        while len(seen) < EVENTS:
            user, day = int(dice.integers(USERS)), int(dice.integers(DAYS))
            item = int(dice.zipf(1.3)) * 7 % ITEMS
            if (user, item, day) not in seen:
                seen.add((user, item, day))
                table.writerow((user, item, 1_400_000_000 // 86_400 * 86_400 + day * 86_400))
    return path


@pytest.fixture
def run(jars: Path, tmp_path: Path) -> Iterator[Run]:
    started = Run(tmp_path / "killed")
    yield started
    started.stop()


def drain(run: Run, log: Path, partitions: int, kills: bool) -> dict[str, Any]:
    run.start("--drain", "--events", str(log), SPARC_KAFKA__PARTITIONS=str(partitions))
    if kills:
        eventually(lambda: run.status("train").get("trained_events", 0) > 0, run)
        order = [*PARTS, *PARTS[4:6]]
        random.Random(partitions).shuffle(order)
        for words in order:
            for pid in run.pids(*words):
                os.kill(pid, signal.SIGKILL)
            time.sleep(2)
            assert run.process is not None
            if run.process.poll() is not None:
                break
    return run.summary()


@pytest.mark.parametrize("partitions", [1, 2])
def test_a_drain_with_every_part_killed_ends_with_the_same_bits(
    run: Run, log: Path, tmp_path: Path, partitions: int
) -> None:
    undisturbed = Run(tmp_path / "undisturbed")
    try:
        expected = drain(undisturbed, log, partitions, kills=False)
    finally:
        undisturbed.stop()
    summary = drain(run, log, partitions, kills=True)
    for name in ("trained_events", "micro_batches", "prequential_queries", "late", "lost"):
        assert summary[name] == expected[name], name
    assert summary["prequential_recall_at_50"] == expected["prequential_recall_at_50"]
    assert_same_bits(handed_over(undisturbed.data_dir), handed_over(run.data_dir))
