"""Searches under load while snapshots are swapped, and how long it takes to go back.

    python -m tests.benchmarks.swap --rate 1000 --swaps 100 --out swap.json

A few versions are published once; then the pointer goes from one to the next, as the indexer moves
it, and a `SnapshotFollower` loads, tries and swaps each, while threads ask at `--rate` queries a
second. What a version answers to each query is known beforehand: an answer that is not wholly that
of the version that it names is counted as mixed. At last a rollback is timed, from the decision on
disk to the first answer of the version before.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import structlog

from deploy.release.decisions import Decision, decide
from deploy.service.snapshot_follower import SnapshotFollower
from indexer.indexing.config import IndexerConfig
from indexer.indexing.indexer import Indexer
from indexer.indexing.item_store import ItemStore
from indexer.indexing.recovery import pointer_to
from indexer.search.config import SearchConfig
from indexer.search.query import Query
from indexer.search.retriever import Retriever
from indexer.snapshots.pointer import snapshot_path, write_pointer
from indexer.snapshots.snapshot_reading import load_snapshot
from tests.benchmarks.reports import begun, write
from tests.indexer.stand_in import StandIn

VERSIONS = 4
QUERIES = 64
BATCH = 8
K = 20
SETTLED = 10
"""Swaps after which the memory is at its level."""
MIB = 2**20


@dataclass
class Counted:
    """What the asking threads saw."""

    answers: int = 0
    late: int = 0
    mixed: int = 0
    errors: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    versions: set[int] = field(default_factory=set)
    alone: threading.Lock = field(default_factory=threading.Lock)


def publish(data_dir: Path, items: int, codes: int, dimension: int) -> None:
    """Versions of models that differ."""
    model = StandIn.make(items, codes, dimension)
    store = ItemStore(data_dir / "indexer" / "rocksdb")
    indexer = Indexer(IndexerConfig(), store, data_dir, lambda: 1, StandIn.load)
    indexer.recover()
    for number in range(1, VERSIONS + 1):
        model.moved(0.3, number).hand_over(data_dir, number)
        indexer.index_handover(number)
    store.close()


def asking(follower: SnapshotFollower, queries: list[Query], known: dict[int, Any], rate: float,
           counted: Counted, stop: threading.Event) -> None:  # fmt: skip
    """Ask `rate` queries a second, a batch at a time, and compare with what is known."""
    due = time.perf_counter()
    at = 0
    while not stop.is_set():
        due += BATCH / rate
        if (wait := due - time.perf_counter()) > 0:
            time.sleep(wait)
        began = time.perf_counter()
        here = range(at, at + BATCH)
        at = (at + BATCH) % QUERIES
        try:
            state = follower.retriever
            assert state is not None
            answers = [(a.items, a.codes) for a in state.answers([queries[q] for q in here], 1_000)]
        except Exception as error:  # every error of a search is one that a user would see
            with counted.alone:
                counted.errors.append(repr(error))
            continue
        took = time.perf_counter() - began
        expected = [known[state.version][q] for q in here]
        with counted.alone:
            counted.answers += BATCH
            counted.mixed += sum(a != e for a, e in zip(answers, expected, strict=True))
            counted.late += BATCH * (time.perf_counter() - due > 1)
            counted.seconds.append(took)
            counted.versions.add(state.version)


def _following(follower: SnapshotFollower, stop: threading.Event) -> None:
    while not stop.is_set():
        follower.poll()
        stop.wait(0.2)


def play(options: argparse.Namespace, data_dir: Path) -> dict[str, Any]:
    """Publish, swap under load, go back."""
    publish(data_dir, options.items, options.codes, options.dimension)
    search = SearchConfig(codes=4)
    pointers, known = {}, {}
    rng = np.random.default_rng(options.seed)
    ids = load_snapshot(data_dir / snapshot_path(1), StandIn.load).model.items.ids_N
    queries = [
        Query(rng.choice(ids, 10).tolist(), [1] * 10, now_ms=1_000, k=K) for _ in range(QUERIES)
    ]
    for version in range(1, VERSIONS + 1):
        snapshot = load_snapshot(data_dir / snapshot_path(version), StandIn.load)
        pointers[version] = pointer_to(snapshot, version)
        state = Retriever(snapshot, search)
        # in batches as they will be asked: the sums of a product depend on its shape
        answers = [
            answer
            for at in range(0, QUERIES, BATCH)
            for answer in state.answers(queries[at : at + BATCH], 1_000)
        ]
        known[version] = [(answer.items, answer.codes) for answer in answers]
        del snapshot, state
    write_pointer(data_dir, pointers[1])
    follower = SnapshotFollower(data_dir, search, load_model=StandIn.load)
    follower.poll()
    counted, stop = Counted(), threading.Event()
    threads = [
        threading.Thread(
            target=asking,
            args=(follower, queries, known, options.rate / options.threads, counted, stop),
        )
        for _ in range(options.threads)
    ]
    for thread in threads:
        thread.start()
    levels, swapping = [], []
    began = time.perf_counter()
    for n in range(1, options.swaps + 1):
        version = 1 + n % VERSIONS
        write_pointer(data_dir, pointers[version])
        started = time.perf_counter()
        assert follower.poll(), follower.last_error
        swapping.append(time.perf_counter() - started)
        gc.collect()
        levels.append(psutil.Process().memory_info().rss / MIB)
        print(f"{n} swaps, {counted.answers:,} answers", file=sys.stderr, flush=True)
        time.sleep(options.pause)
    took = time.perf_counter() - began
    # A person goes back: the decision is made on disk, and the follower sees it at its next look.
    follows = threading.Thread(target=_following, args=(follower, stop))
    follows.start()
    before = 1 + (options.swaps - 1) % VERSIONS
    started = time.perf_counter()
    decide(data_dir, Decision(before, "pinned", "person", "rollback"))
    while (state := follower.retriever) is None or state.version != before:
        time.sleep(0.002)
    rollback = time.perf_counter() - started
    stop.set()
    for thread in [*threads, follows]:
        thread.join()
    settled = min(SETTLED, options.swaps // 2)
    return {
        "swaps": follower.swaps - 1,
        "seconds": round(took, 2),
        "queries_per_second": round(counted.answers / took, 1),
        "answers": counted.answers,
        "errors": len(counted.errors),
        "first_error": counted.errors[0] if counted.errors else None,
        "mixed": counted.mixed,
        "answered_over_1_s_late": counted.late,
        "versions_that_answered": sorted(counted.versions),
        "batch_p50_ms": round(float(np.quantile(counted.seconds, 0.5)) * 1000, 3),
        "batch_p99_ms": round(float(np.quantile(counted.seconds, 0.99)) * 1000, 3),
        "swap_p50_ms": round(float(np.quantile(swapping, 0.5)) * 1000, 2),
        "memory_mib_when_settled": round(levels[settled], 1),
        "memory_mib_at_the_end": round(levels[-1], 1),
        "rollback_seconds": round(rollback, 3),
    }


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=1000.0)
    parser.add_argument("--swaps", type=int, default=100)
    parser.add_argument("--pause", type=float, default=0.2, help="seconds between two swaps")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--items", type=int, default=12_000)
    parser.add_argument("--codes", type=int, default=64)
    parser.add_argument("--dimension", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    result = begun("swap", options)
    with tempfile.TemporaryDirectory() as place:
        result |= play(options, Path(place))
    write(result, options)
    return result


if __name__ == "__main__":
    main()
