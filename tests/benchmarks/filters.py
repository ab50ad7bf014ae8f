"""Filtered queries beside unfiltered ones, and beside brute force over what passes.

    python -m tests.benchmarks.filters --out filters.json
    python -m tests.benchmarks.filters --items 12101 --place /tmp/made

For each size a catalogue and a log are made (`made_catalogue`), a trainer learns the log, and an
indexer publishes a version. Every item has a number, in an order of chance that knows nothing of
vectors, and the filters keep those below some number. The next events' users ask, one query at a
time on one core, without a filter and with each: latency, how many answers are full (have 50 items,
or as many as pass), and how much of what brute force over all that pass has, by the user vector of
each item's code, they hold; beside it how much of what it has over the lists that were searched.
"First" is a filter that was not asked before: the columns are looked at, and what passes is found
in the lists.

`--place` keeps what was published, and takes what is there.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits

from indexer.catalogue.filter import Filter
from indexer.catalogue.item_columns import ALWAYS, ATTRIBUTE, ItemColumns
from indexer.search.config import RANKED_ONLY, SearchConfig
from indexer.search.query import Query
from indexer.search.retriever import Retriever
from indexer.search.soft_search import SoftSearch
from indexer.snapshots.snapshot_reading import load_served
from model.histories import History
from tests.benchmarks.catalogue_parts import PartProcess, indexer, trainer
from tests.benchmarks.growing_source import LogFiles
from tests.benchmarks.made_catalogue import CatalogueSize, MadeCatalogue, make
from tests.benchmarks.reports import begun, write

SHARES = {"50 %": 0.5, "10 %": 0.1, "1 %": 0.01, "0.1 %": 0.001, "one item": 0.0}
FIRST_TIMES = 20
WARM_UP = 200
COLUMNS = {
    "passing": "items",
    "recall": "of brute force",
    "recall_of_searched": "of the lists searched",
    "full": "full",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "cpu_p50_ms": "CPU p50",
    "cpu_p99_ms": "CPU p99",
    "p99_to_unfiltered": "p99, to no filter",
    "cpu_p99_to_unfiltered": "CPU p99, to no filter",
    "first_cpu_p50_ms": "first, CPU ms",
}
Report = dict[str, Any]


def published(size: CatalogueSize, events: int, place: Path) -> tuple[MadeCatalogue, Path]:
    """A catalogue, and the data directory in which a version of it was published."""
    made, data_dir = make(size), place / "state"
    if (data_dir / "current.json").exists():
        return made, data_dir
    files = LogFiles.write(made, place / "log", [events])
    training = PartProcess(trainer, data_dir, files, events)
    indexing = PartProcess(indexer, data_dir, files)
    training.ask("train", files.parts[0])
    indexing.ask("list", files.parts[0].items)
    indexing.ask("index")
    training.end()
    indexing.end()
    return made, data_dir


def properties(ids_N: np.ndarray, seed: int) -> ItemColumns:
    """Of each item a number from 0 to 1, in an order of chance."""
    order = np.random.default_rng(seed).permutation(len(ids_N))
    none = pa.nulls(len(ids_N), pa.int64())
    columns: list[pa.Array] = [
        pa.array(ids_N),
        pa.array(np.zeros(len(ids_N), np.int8)),
        none,
        none,
        pa.array([""], pa.large_string()).take(pa.array(np.zeros(len(ids_N), np.int64))),
        pa.array(order / len(ids_N)),
    ]
    names = [*(name for name, _ in ALWAYS), f"{ATTRIBUTE}number"]
    return ItemColumns.of([pa.RecordBatch.from_arrays(columns, names)])


def filter_of(share: float, items: int, nudge: int = 0) -> Filter:
    """Keeps a share of the items, or one; `nudge` makes another filter that keeps the same."""
    limit = max(share, 1 / items) - 0.5 / items + nudge / items / 1000
    return Filter.parse({"must": [{"key": "number", "range": {"lt": limit}}]})


def timed(answer: Callable[[int], Any], queries: int) -> tuple[list[Any], Report]:
    """What is answered one query at a time, and how long it takes, in ms."""
    found, seconds = [], []
    for b in range(queries):
        began, worked = time.perf_counter(), time.thread_time()
        found.append(answer(b))
        seconds.append((time.perf_counter() - began, time.thread_time() - worked))
    wall, cpu = np.quantile(np.array(seconds[queries // 10 :]), [0.5, 0.99], axis=0).T * 1000
    names = ("p50_ms", "p99_ms", "cpu_p50_ms", "cpu_p99_ms")
    return found, {name: round(float(x), 3) for name, x in zip(names, (*wall, *cpu), strict=True)}


class BruteForce:
    """All items with the scores by which a search would rank them, of some queries."""

    def __init__(self, search: SoftSearch, asked: Sequence[Query]) -> None:
        histories = [History(list(one.items), list(one.times or ())) for one in asked]
        now_ms_B = np.array([one.now_ms for one in asked])
        self.of_query = [
            next(search.candidates(histories[b : b + 1], now_ms_B[b : b + 1]))
            for b in range(len(asked))
        ]

    def recall(self, found: Sequence[Any], passing: np.ndarray, k: int) -> tuple[float, float]:
        """Of the best k that pass, how many were found: of all, and of the lists searched."""
        hits, hits_searched, total, total_searched = 0, 0, 0, 0
        passes = np.zeros(int(self.of_query[0].items_BN.max()) + 2, bool)  # by id; the last for -1
        passes[passing] = True
        for every, answer in zip(self.of_query, found, strict=False):
            items_N, scores_N = every.items_BN[0], every.scores_BN[0]
            may = passes[items_N] & (scores_N > -np.inf)
            sizes = np.diff(every.starts_BS[0], append=len(items_N))
            searched = np.isin(every.searched_BS[0], [one.code for one in answer.searched])
            for allowed, whole in (
                (may, True),
                (may & (np.repeat(searched, sizes) | every.evidence_BN[0]), False),
            ):
                rows = np.flatnonzero(allowed)
                best = rows
                if len(rows) > k:
                    best = rows[np.argpartition(-scores_N[rows], k)[:k]]
                same = len(np.intersect1d(items_N[best], answer.items))
                if whole:
                    hits, total = hits + same, total + len(best)
                else:
                    hits_searched, total_searched = hits_searched + same, total_searched + len(best)
        return hits / max(total, 1), hits_searched / max(total_searched, 1)


def measure(made: MadeCatalogue, data_dir: Path, options: argparse.Namespace) -> Report:
    """One catalogue: without a filter, and with each."""
    snapshot = load_served(data_dir)
    assert snapshot is not None
    ids_N = np.sort(snapshot.lists.item_ids_N[snapshot.lists.item_ids_N >= 0])
    columns = properties(ids_N, options.seed)
    retriever = Retriever(snapshot, SearchConfig(explore=RANKED_ONLY), columns)
    following = (one for one in made.sequences(options.events) if one.history_items)
    asked = [
        Query(one.history_items, one.history_times, one.event_time, options.k)
        for one, _ in zip(following, range(options.queries), strict=False)
    ]

    def with_filter(filter_: Filter | None) -> Callable[[int], Any]:
        return lambda b: retriever.answer(_filtered(asked[b], filter_))

    brute = BruteForce(SoftSearch(snapshot.model, snapshot.lists), asked[: options.exhaustive])
    report: Report = {}
    for name, share in {"no filter": None, **SHARES}.items():
        filter_ = None if share is None else filter_of(share, len(ids_N))
        mask_R = np.ones(len(ids_N) + 1, bool) if filter_ is None else filter_.mask(columns)
        passing = ids_N[mask_R[:-1]]
        for b in range(min(WARM_UP, len(asked))):  # what is read first comes from the disk
            with_filter(filter_)(b)
        found, row = timed(with_filter(filter_), len(asked))
        recall, recall_of_searched = brute.recall(found, passing, options.k)
        wanted = [
            min(options.k, len(passing) - len(np.intersect1d(passing, one.items))) for one in asked
        ]
        full = [len(one.items) == n for one, n in zip(found, wanted, strict=True)]
        row |= {
            "passing": len(passing),
            "recall": round(recall, 4),
            "recall_of_searched": round(recall_of_searched, 4),
            "full": round(float(np.mean(full)), 4),
        }
        if share is not None:
            others = [filter_of(share, len(ids_N), n + 1) for n in range(FIRST_TIMES)]
            _, first = timed(lambda b, others=others: with_filter(others[b])(b), FIRST_TIMES)
            row |= {"first_p50_ms": first["p50_ms"], "first_cpu_p50_ms": first["cpu_p50_ms"]}
        report[name] = row
        without = report["no filter"]
        row["p99_to_unfiltered"] = round(row["p99_ms"] / without["p99_ms"], 2)
        row["cpu_p99_to_unfiltered"] = round(row["cpu_p99_ms"] / without["cpu_p99_ms"], 2)
        print(f"{len(ids_N):>9,} items, {name}: {row}", flush=True)
    return report


def _filtered(query: Query, filter_: Filter | None) -> Query:
    return Query(query.items, query.times, query.now_ms, query.k, filter=filter_)


def table(sizes: dict[str, Report]) -> str:
    """The figures by size and filter."""
    head = ["catalogue", "kept", *COLUMNS.values()]
    lines = [head, ["---"] * len(head)]
    for size, report in sizes.items():
        for name, row in report.items():
            figures = [f"{row[key]:,.4g}" if key in row else "" for key in COLUMNS]
            figures[0] = f"{row['passing']:,}"
            lines.append([f"{int(size):,}", name, *figures])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def main(arguments: list[str] | None = None) -> Report:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", default="12101,92331,1000000", help="sizes, with commas")
    parser.add_argument("--events", type=int, default=20_480, help="that are learnt")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--exhaustive", type=int, default=50, help="of them, by brute force, too")
    parser.add_argument("--k", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--place", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the parts: one core each
    result = begun("filters", options)
    result["sizes"] = sizes = {}
    for items in map(int, options.items.split(",")):
        events = options.events + options.queries + 5000
        size = CatalogueSize(items, events, 4000, births=500, seed=options.seed)
        with tempfile.TemporaryDirectory() as place:
            made, data_dir = published(
                size, options.events, (options.place or Path(place)) / str(items)
            )
            with threadpool_limits(1):
                sizes[str(items)] = measure(made, data_dir, options)
    write(result, options)
    print(table(sizes))
    return result


if __name__ == "__main__":
    main()
