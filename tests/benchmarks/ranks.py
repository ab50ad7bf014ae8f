"""What a step costs each of several ranks, beside one that learns alone.

    python -m tests.benchmarks.ranks --log events.csv --catalogue items.csv --ranks 1,2,3

Each group learns the same micro-batches after the same warm-up, without Kafka, disk and answers.
Told are the seconds of the processor of the busiest rank, which are those of the clock where each
rank has a core, but for waiting; and which part of them all ranks have alike.
"""

from __future__ import annotations

import argparse
import time
from itertools import islice
from pathlib import Path
from typing import Any

from model.ranks import Ranks
from tests.benchmarks.reports import begun, write
from tests.model.rank_group import together

BATCH = 256


def timed(ranks: Ranks, log: Path, catalogue: Path, warm_up: int, batches: int, step: int) -> Any:
    """Seconds of the processor and of the clock, events, and the norm of the codebooks."""
    import torch

    from model.evaluation import protocol
    from model.evaluation.user_sequences import SequencesOfUsers
    from model.learning.config import LearnerConfig
    from model.learning.learner import Learner

    torch.set_flush_denormal(True)
    learner = Learner(LearnerConfig(step=step), ranks=ranks)
    learner.list_items(protocol.read_items(catalogue))
    sequences = iter(SequencesOfUsers().take(protocol.read_events(log)))
    size = max(BATCH, round(step / 1.5))
    for _ in range(warm_up // size):
        learner.learn(list(islice(sequences, size)))
    began, clock = time.process_time(), time.perf_counter()
    for _ in range(batches):
        learner.learn(list(islice(sequences, size)))
    seconds = time.process_time() - began, time.perf_counter() - clock
    weights = learner.state().dense["sparc.quantizer.codebooks_QCD"]
    return *seconds, batches * size, float(weights.double().norm())


def main() -> None:
    """Run the groups one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--catalogue", type=Path, required=True)
    parser.add_argument("--ranks", default="1,2")
    parser.add_argument("--warm-up", type=int, default=20_480)
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--step", type=int, default=400, help="most examples of a step")
    parser.add_argument("--out", type=Path, default=Path("ranks.json"))
    options = parser.parse_args()
    report = begun("ranks", options)
    for size in map(int, options.ranks.split(",")):
        found = together(
            options.out.absolute().parent,
            size,
            timed,
            *(options.log, options.catalogue, options.warm_up, options.batches, options.step),
            patience=3600,
        )
        busiest = max(cpu for cpu, *_ in found)
        events, norm = found[0][2:]
        report[f"ranks {size}"] = {
            "events a CPU second of the busiest rank": events / busiest,
            "CPU seconds of the busiest rank": busiest,
            "seconds": max(clock for _, clock, *_ in found),
            "norm of the codebooks": norm,
        }
    write(report, options)


if __name__ == "__main__":
    main()
