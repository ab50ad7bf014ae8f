"""Soft search beside faiss, at equal recall, in one run.

    python -m tests.benchmarks.search --out search.json
    python -m tests.benchmarks.search --growth 10000,100000,1000000 --plot growth.png --out g.json
    python -m tests.benchmarks.search --snapshot data/beauty/snapshots/00000042 --out beauty.json

All answer the same question: the K items of the greatest inner product with a user's vector. For
each the smallest knob is taken that finds `--recall` of what the exhaustive search finds, on users
that are not those of the measurement. Latencies are of one query at a time on one core, the median
of three, by the clock, and by the processor time of the thread, which another process does not
lengthen; queries per second are of batches, on one core and on two. Indexes are built on all cores.
Memory is what the index holds. "Fresh" is the processor time that one minute's changes (`--changes`
of the items get another vector) cost.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
from threadpoolctl import threadpool_limits

from deploy.studies.machine_facts import machine, peak_memory_gib, versions
from indexer.snapshots.snapshot_reading import load_snapshot
from model.histories import History
from model.retrieval.retrieval_model import RetrievalModel
from streaming.bounds import DAY_MS
from tests.benchmarks.clustered_items import Clustered, clustered
from tests.benchmarks.searchers import SEARCHERS, Exhaustive, Searcher

BATCH = 256
ROUNDS = 3
RENEWALS, RENEWING_S = 40, 4.0
MIB = 2**20


@dataclass(frozen=True)
class Question:
    """What is asked: users to set the knob by, users to measure by, and their true answers."""

    tuning_BD: np.ndarray
    users_BD: np.ndarray
    tuning_BK: np.ndarray
    true_BK: np.ndarray
    k: int

    @classmethod
    def of(cls, made: Clustered, queries: int, k: int, seed: int) -> Question:
        exact = Exhaustive(made)
        tuning, users = made.users(min(queries, 500), seed + 1), made.users(queries, seed + 2)
        return cls(tuning, users, exact.search(tuning, k, 1), exact.search(users, k, 1), k)


class Prepared(NamedTuple):
    """A searcher with its knob set, and what is known of it so far."""

    searcher: Searcher
    knob: int
    facts: dict[str, Any]


def recall(found_BK: np.ndarray, true_BK: np.ndarray) -> float:
    hits = [len(np.intersect1d(f, t)) for f, t in zip(found_BK, true_BK, strict=True)]
    return float(np.sum(hits) / true_BK.size)


def in_batches(searcher: Searcher, users_BD: np.ndarray, k: int, knob: int) -> np.ndarray:
    parts = [users_BD[a : a + BATCH] for a in range(0, len(users_BD), BATCH)]
    return np.concatenate([searcher.search(part, k, knob) for part in parts])


def prepare(kind: type[Searcher], made: Clustered, asked: Question, wanted: float) -> Prepared:
    """Build one searcher and set its knob."""
    faiss.omp_set_num_threads(os.cpu_count() or 1)
    began, worked = time.perf_counter(), time.process_time()
    searcher = kind(made)
    build_s, build_cpu_s = time.perf_counter() - began, time.process_time() - worked
    faiss.omp_set_num_threads(1)
    for knob in searcher.knobs:
        if recall(in_batches(searcher, asked.tuning_BD, asked.k, knob), asked.tuning_BK) >= wanted:
            break
    found = in_batches(searcher, asked.users_BD, asked.k, knob)
    facts = {
        "knob": knob,
        "recall": round(recall(found, asked.true_BK), 4),
        "scored_share": searcher.scored_share(asked.users_BD[:BATCH], asked.k, knob),
        "build_s": round(build_s, 3),
        "build_cpu_s": round(build_cpu_s, 3),
        "memory_mib": round(searcher.memory() / MIB, 1),
    }
    return Prepared(searcher, knob, facts)


def latencies(prepared: Sequence[Prepared], asked: Question) -> None:
    """Ask one query at a time, `ROUNDS` times, all searchers in turn.

    A query's latency is the median of its rounds: what else the machine did at that moment is not
    the searcher's.
    """
    times = np.empty((len(prepared), ROUNDS, len(asked.users_BD), 2))
    for number in range(ROUNDS):
        for n, one in enumerate(prepared):
            for q, user in enumerate(asked.users_BD):
                began, worked = time.perf_counter(), time.thread_time()
                one.searcher.search(user[None], asked.k, one.knob)
                took = time.perf_counter() - began, time.thread_time() - worked
                times[n, number, q] = took
    for one, by_round in zip(prepared, times, strict=True):
        p50, p99 = np.quantile(np.median(by_round, axis=0), [0.5, 0.99], axis=0) * 1000
        one.facts.update(
            p50_ms=round(float(p50[0]), 4),
            p99_ms=round(float(p99[0]), 4),
            cpu_p50_ms=round(float(p50[1]), 4),
            cpu_p99_ms=round(float(p99[1]), 4),
        )


def _rate(searcher: Searcher, asked: Question, knob: int, threads: int) -> float:
    parts = np.array_split(asked.users_BD, max(threads, len(asked.users_BD) // BATCH))
    with ThreadPoolExecutor(threads) as pool:
        began = time.perf_counter()
        list(pool.map(lambda part: searcher.search(part, asked.k, knob), parts))
        return len(asked.users_BD) / (time.perf_counter() - began)


def _renewal(searcher: Searcher, made: Clustered, changes: float, seed: int) -> float:
    """Processor seconds for one minute's changes: the mean of some minutes after the first.

    Many, where they are cheap: lists are copied now and then.
    """
    rng = np.random.default_rng(seed)
    count = max(1, int(changes * len(made.item_ids_N)))
    took: list[float] = []
    while len(took) < 3 or (len(took) <= RENEWALS and sum(took) < RENEWING_S):
        rows = rng.choice(len(made.item_ids_N), count, replace=False)
        codes = rng.integers(0, len(made.centroids_CD), count)
        vectors = made.vectors_ND[rng.permutation(rows)]
        worked = time.process_time()
        searcher.renew(rows, codes, vectors)
        took.append(time.process_time() - worked)
    return float(np.mean(took[1:]))


@dataclass(frozen=True)
class Learnt(Clustered):
    """The items of a snapshot as they lie in its lists, asked by users as its model sees them."""

    model: RetrievalModel

    @classmethod
    def of(cls, directory: Path) -> Learnt:
        snapshot = load_snapshot(directory)
        ids_N = np.sort(snapshot.lists.item_ids_N[snapshot.lists.item_ids_N >= 0])
        vectors_ND = snapshot.lists.vectors_of(ids_N)
        codes_NQ = snapshot.codes_of(ids_N)
        C = len(snapshot.lists.lists)
        counts_C = np.maximum(np.bincount(codes_NQ[:, 0], minlength=C), 1)
        means_CD = np.stack([np.bincount(codes_NQ[:, 0], x, C) / counts_C for x in vectors_ND.T], 1)
        return cls(
            np.arange(1, len(ids_N) + 1),
            codes_NQ[:, 0],
            codes_NQ[:, 1],
            vectors_ND,
            means_CD.astype(np.float32),
            snapshot.model,
        )

    def users(self, count: int, seed: int) -> np.ndarray:
        """One to five items, clicked a day apart; the user vector of the most probable code."""
        rng, model = np.random.default_rng(seed), self.model
        histories = []
        for length in rng.integers(1, 6, count).tolist():
            items = rng.choice(model.item_ids_N, length, replace=False).tolist()
            times = [model.clock_ms - n * DAY_MS for n in range(length, 0, -1)]
            histories.append(History(items, times))
        encoded = model.encode(histories, np.full(count, model.clock_ms))
        top_B1 = model.log_interests(encoded).argmax(axis=1)[:, None]
        return np.ascontiguousarray(model.user_vectors(encoded, top_B1)[:, 0])


def compare(
    made: Clustered,
    options: argparse.Namespace,
    names: Sequence[str],
    found: dict[str, dict[str, Any]],
    note: Callable[[], None],
) -> None:
    """Fill `found`, and `note` it step by step: a run may take long."""
    asked = Question.of(made, options.queries, options.k, options.seed)
    prepared = []
    for name in names:
        prepared.append(prepare(SEARCHERS[name], made, asked, options.recall))
        found[name] = prepared[-1].facts
        print(f"{len(made.item_ids_N):>9,} items  {name:<18} {json.dumps(found[name])}", flush=True)
        note()
    latencies(prepared, asked)
    note()
    for name, (searcher, knob, facts) in zip(names, prepared, strict=True):
        facts["queries_per_s_one_core"] = round(_rate(searcher, asked, knob, 1), 1)
        facts["queries_per_s_two_cores"] = round(_rate(searcher, asked, knob, 2), 1)
        renewal = _renewal(searcher, made, options.changes, options.seed)
        facts["fresh_cpu_s_per_minute"] = round(renewal, 4)
        note()
        print(f"{len(made.item_ids_N):>9,} items  {name:<18} {json.dumps(facts)}", flush=True)


def codes_for(items: int) -> int:
    """Codes that keep a list at about a thousand items, from 64 on, a power of two."""
    return max(64, 2 ** round(np.log2(max(1, items / 1000))))


def plot(by_items: dict[str, dict[str, Any]], path: Path) -> None:
    """Latency against the number of items, p50 drawn through, p99 dashed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    names = list(dict.fromkeys(name for found in by_items.values() for name in found))
    for n, name in enumerate(names):
        there = {int(items): found[name] for items, found in by_items.items() if name in found}
        for key, style in (("cpu_p50_ms", "-"), ("cpu_p99_ms", "--")):
            times = [found[key] for found in there.values()]
            label = name if style == "-" else "_nolegend_"
            axes.plot(
                list(there), times, style, color=f"C{n}", marker="o", markersize=3, label=label
            )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="items",
        ylabel="ms of one core for a query (p50; p99 dashed)",
    )
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--codes", type=int, help="default: lists of about a thousand items")
    parser.add_argument("--dimension", type=int, default=64)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--k", type=int, default=50)
    parser.add_argument("--recall", type=float, default=0.95)
    parser.add_argument("--changes", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="; ".join(SEARCHERS), help="names, with semicolons")
    parser.add_argument("--snapshot", type=Path, help="the items of this snapshot instead")
    parser.add_argument("--growth", help="numbers of items, with commas")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    names = [name.strip() for name in options.only.split(";")]
    places = ("out", "plot", "snapshot")
    result: dict[str, Any] = {
        "benchmark": "search",
        "settings": {k: v for k, v in vars(options).items() if k not in places},
        "machine": machine("cpu"),
        "versions": versions(),
    }

    def note() -> None:
        result["peak_memory_gib"] = peak_memory_gib()
        if options.out:
            options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")

    faiss.omp_set_num_threads(1)
    with threadpool_limits(1):
        if options.growth:
            result["growth"] = {}
            for items in map(int, options.growth.split(",")):
                made = clustered(items, codes_for(items), options.dimension, options.seed)
                found: dict[str, dict[str, Any]] = result["growth"].setdefault(str(items), {})
                compare(made, options, names, found, note)
        else:
            if options.snapshot:
                made = Learnt.of(options.snapshot)
            else:
                codes = options.codes or codes_for(options.items)
                made = clustered(options.items, codes, options.dimension, options.seed)
            result["items"], result["codes"] = len(made.item_ids_N), len(made.centroids_CD)
            result["searchers"] = {}
            compare(made, options, names, result["searchers"], note)
    if options.plot and "growth" in result:
        plot(result["growth"], options.plot)
    return result


if __name__ == "__main__":
    main()
