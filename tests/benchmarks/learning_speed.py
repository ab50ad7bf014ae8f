"""Events that the trainer learns, and answers and learns, in a second of its processor.

    python -m tests.benchmarks.learning_speed --log events.csv --catalogue items.csv
    python -m tests.benchmarks.learning_speed --items 1000000 --other ../before

One process, one thread, no Kafka and no disk: after `--warm-up` events, rounds of micro-batches are
learnt, and others first answered by the model of after the warm-up, as the trainer does. With
`--other`, a tree of the project as it is elsewhere, each has a process, and the two take turns:
what else the machine does slows both, so the ratios of the rounds say more than the seconds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from tests.benchmarks.made_catalogue import CatalogueSize, make
from tests.benchmarks.reports import begun, write

ROOT = Path(__file__).resolve().parents[2]
BATCH = 256
WAYS = ("learn", "answer and learn")


def serve(options: argparse.Namespace) -> None:
    """Warm up, then time a round for each line of the input: seconds of the processor."""
    import numpy as np
    import torch

    from indexer.search.config import SearchConfig
    from indexer.search.soft_search import ServedPath
    from model.evaluation import protocol
    from model.evaluation.user_sequences import SequencesOfUsers
    from model.histories import History
    from model.learning.config import LearnerConfig
    from model.learning.learner import Learner
    from streaming.events import UserSequence

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    wanted = options.warm_up + (2 * options.rounds + 1) * options.batches * BATCH
    sequences: Iterator[UserSequence]
    if options.log is None:
        made = make(CatalogueSize(options.items, wanted))
        items, sequences = list(made.items()), iter(made.sequences())
    else:
        items = protocol.read_items(options.catalogue)
        sequences = iter(SequencesOfUsers().take(protocol.read_events(options.log)))
    learner = Learner(LearnerConfig())
    learner.list_items(items)
    for _ in range(options.warm_up // BATCH):
        learner.learn(list(islice(sequences, BATCH)))
    path = ServedPath(SearchConfig(), learner.retrieval_model())
    print("ready", flush=True)
    for way in sys.stdin:
        began = time.process_time()
        for _ in range(options.batches):
            batch = list(islice(sequences, BATCH))
            asked = [s for s in batch if s.history_items] if way.strip() == WAYS[1] else []
            if asked:
                histories = [History(s.history_items, s.history_times) for s in asked]
                path.answer(histories, np.array([s.event_time for s in asked]), 50)
            learner.learn(batch)
        print(time.process_time() - began, flush=True)


def started(tree: Path, arguments: list[str]) -> subprocess.Popen[str]:
    """A process of some tree, before its warm-up."""
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return subprocess.Popen(
        # -P: beside this file lies another `streaming`
        [sys.executable, "-P", str(Path(__file__).resolve()), *arguments, "--serve"],
        env={**os.environ, **single, "PYTHONPATH": str(tree)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def asked(process: subprocess.Popen[str], way: str | None = None) -> str:
    """Its next line, after it was told which way to take."""
    assert process.stdin is not None and process.stdout is not None
    if way is not None:
        process.stdin.write(way + "\n")
        process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise RuntimeError("a process has ended; what it said is on the terminal")
    return line


def measured(trees: list[Path], arguments: list[str], rounds: int, batches: int) -> dict[str, Any]:
    """Events a CPU second of each tree and way, and the ratios of the first to the second."""
    processes = [started(tree, arguments) for tree in trees]
    try:
        for process in processes:
            asked(process)
        seconds: dict[str, list[list[float]]] = {way: [[] for _ in trees] for way in WAYS}
        for turn in range(rounds):
            order = list(range(len(trees)))[:: 1 if turn % 2 == 0 else -1]
            for way in WAYS:
                for tree in order:
                    seconds[way][tree].append(float(asked(processes[tree], way)))
    finally:
        for process in processes:
            process.kill()
            process.wait()
    found: dict[str, Any] = {}
    for way, of_trees in seconds.items():
        speeds = [[batches * BATCH / s for s in of_tree] for of_tree in of_trees]
        found[way] = {"events_per_cpu_s": [round(statistics.median(s), 1) for s in speeds]}
        if len(trees) > 1:
            ratios = [one / other for one, other in zip(*speeds, strict=True)]
            found[way]["ratio"] = round(statistics.median(ratios), 3)
            found[way]["ratios"] = [round(min(ratios), 3), round(max(ratios), 3)]
    return found


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--log", type=Path, help="events; without it, a log is made")
    parser.add_argument("--catalogue", type=Path, help="items of --log")
    parser.add_argument("--items", type=int, default=1_000_000, help="of the log that is made")
    parser.add_argument("--warm-up", type=int, default=20_480)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--batches", type=int, default=4, help="micro-batches of a round")
    parser.add_argument("--other", type=Path, help="another tree of the project")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        serve(options)
        return {}
    result = begun("learning speed", options)
    trees = [ROOT, *([options.other.resolve()] if options.other else [])]
    result |= measured(trees, arguments, options.rounds, options.batches)
    write(result, options)
    return result


if __name__ == "__main__":
    main()
