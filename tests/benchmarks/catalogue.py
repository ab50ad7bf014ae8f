"""What grows with the catalogue: the pipeline's own parts at several sizes, with equal events.

    python -m tests.benchmarks.catalogue --out catalogue.json --plot catalogue.png
    python -m tests.benchmarks.catalogue --items 10000,100000 --publications 2

For each size a catalogue and a log are made (`made_catalogue`), and trainer, indexer and two
readers run beside each other, each in a process of its own, in step: the trainer learns as many
events as a publication has, and publishes; the indexer lists the items born meanwhile and makes a
version; the readers load it. After `--warm-up` publications, among them the first of the whole
catalogue, `--publications` are measured. Then a reader that is new loads the last version, and is
asked about the events that come next: latency one query at a time, share of the catalogue scored,
and Recall@50 beside that of the exhaustive search by the same vectors, and of the items most
clicked.

Seconds are the processor's, which other processes lengthen less than the clock's, and means of the
publications. Bytes are of files that are new; one that is linked again counts nothing. "Rewritten"
are the vectors in new files, as a share of the catalogue. Memory is the most that was seen of PSS;
that of the service is of two readers and of the process that they are forked from, as `sparc serve`
forks its workers. VmHWM, which counts what readers share for each of them, is in the report, and so
is what a part takes before it has read anything. `--freshness` runs the whole pipeline besides, at
so many events a second, as `tests.benchmarks.freshness` does.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from tests.benchmarks import freshness
from tests.benchmarks.catalogue_parts import (
    Asked,
    PartProcess,
    Report,
    indexer,
    reader,
    service,
    trainer,
)
from tests.benchmarks.growing_source import LogFiles
from tests.benchmarks.made_catalogue import CatalogueSize, MadeCatalogue, make
from tests.benchmarks.process_costs import MemoryWatch, peak_mib
from tests.benchmarks.reports import begun, write

READERS = ("reader 1", "reader 2")
SERVICE = "service"
"""The process that the readers are forked from."""
PLACES = ("vectors", "z_nD", "items.z_ND")
"""Arrays of vectors in the files that are published."""
DENSE = 5000
"""Events besides those of the publications, of which queries are made."""

FIGURES: dict[str, tuple[str, ...]] = {
    "a publication, CPU s": ("publication", "cpu_s"),
    "... trainer": ("publication", "trainer_cpu_s"),
    "... ... checkpoint": ("publication", "checkpoint_cpu_s"),
    "... ... handover": ("publication", "handover_cpu_s"),
    "... indexer": ("publication", "indexer_cpu_s"),
    "... a reader": ("publication", "reader_cpu_s"),
    "a publication, MB written": ("publication", "mb"),
    "... checkpoint": ("publication", "checkpoint_mb"),
    "... handover": ("publication", "handover_mb"),
    "... snapshot": ("publication", "snapshot_mb"),
    "vectors rewritten, handover": ("publication", "handover_vectors_share"),
    "vectors rewritten, lists": ("publication", "list_vectors_share"),
    "lists rebuilt": ("publication", "lists_rebuilt"),
    "events learnt a CPU s": ("events_per_cpu_s",),
    "events answered and learnt a CPU s": ("events_per_cpu_s_answered",),
    "listing, trainer, CPU s": ("listing", "trainer_cpu_s"),
    "listing, indexer, CPU s": ("listing", "indexer_cpu_s"),
    "query p50 ms": ("queries", "p50_ms"),
    "query p99 ms": ("queries", "p99_ms"),
    "query p99 ms of the processor": ("queries", "cpu_p99_ms"),
    "share scored": ("queries", "share_scored"),
    "Recall@50": ("queries", "recall_at_50"),
    "... of the exhaustive search": ("queries", "of_exhaustive"),
    "Recall@50 of the most clicked": ("queries", "popularity_recall_at_50"),
    "start of a reader, s": ("start", "load_s"),
    "start of a reader, CPU s": ("start", "load_cpu_s"),
    "trainer, MiB": ("memory_mib", "trainer"),
    "indexer, MiB": ("memory_mib", "indexer"),
    "service of two workers, a version, MiB": ("memory_mib", "readers at rest"),
    "service of two workers, swapping, MiB": ("memory_mib", "readers"),
}
"""Rows of the table, and where they stand in the report of a size."""


def measure(size: CatalogueSize, options: argparse.Namespace, place: Path) -> Report:
    """One catalogue, from nothing to the last publication."""
    each, count = options.events, options.warm_up + options.publications
    made = make(size)
    files = LogFiles.write(made, place / "log", [each * (n + 1) for n in range(count)])
    data_dir = place / "state"
    parts = {
        "trainer": PartProcess(trainer, data_dir, files, each),
        "indexer": PartProcess(indexer, data_dir, files),
    }
    rounds: list[Report] = []
    watch = None
    for number, part in enumerate(files.parts):
        learnt = parts["trainer"].ask("train", part)
        listed = parts["indexer"].ask("list", part.items)
        indexed = parts["indexer"].ask("index")
        if number == 0:
            parts[SERVICE] = PartProcess(service, data_dir, len(READERS), forks=True)
        loaded, _ = (parts[SERVICE].ask("poll", n + 1) for n in range(len(READERS)))
        if watch is None:
            pids = {name: one.pid for name, one in parts.items()}
            pids |= dict(zip(READERS, parts[SERVICE].started["pids"], strict=True))
            watch = MemoryWatch(pids, {"readers": (SERVICE, *READERS)})
        published = _publication(learnt, indexed, loaded, place, size.items)
        rounds.append({"publication": published, "trainer": learnt, "list": listed})
        print(f"{size.items:>9,} items, publication {number + 1}: {published}", file=sys.stderr)
    assert watch is not None
    at_rest = watch.now()["readers"]
    queries = _queries(made, count * each, options.queries)
    newcomer = PartProcess(reader, data_dir)
    answered = newcomer.ask("ask", queries, options.exhaustive)
    newcomer.end()
    memory = watch.peaks() | {"readers at rest": at_rest}
    memory |= {f"{name} VmHWM": peak_mib(pid) for name, pid in pids.items()}
    memory |= {f"{name} empty": one.started["empty_mib"] for name, one in parts.items()}
    watch.close()
    for one in parts.values():
        one.end()
    popular = np.argsort(-np.bincount(made.items_E[: count * each]), kind="stable")[:50]
    hits = np.isin(queries.targets_B, popular)
    exhaustive = answered["exhaustive_recall_at_50"]
    answered["of_exhaustive"] = round(answered["recall_at_50_of_those"] / max(exhaustive, 1e-9), 4)
    answered["popularity_recall_at_50"] = round(float(hits.mean()), 4)
    measured = rounds[options.warm_up :]
    learning = [one["trainer"]["cpu_s"] for one in measured]
    spent = sum(cpu["learner.learn"] for cpu in learning)
    answering = sum(cpu.get("answerer.answer", 0.0) for cpu in learning)
    first = rounds[0]["trainer"]["cpu_s"]
    return {
        "size": asdict(size),
        "publication": _mean([one["publication"] for one in measured]),
        "publications": [one["publication"] for one in rounds],
        "events_per_cpu_s": round(each * len(measured) / spent, 1),
        "events_per_cpu_s_answered": round(each * len(measured) / (spent + answering), 1),
        "listing": {
            "trainer_cpu_s": first["learner.list_items"] + first["source.poll"],
            "indexer_cpu_s": sum(rounds[0]["list"]["cpu_s"].values()),
        },
        "queries": answered,
        "start": newcomer.started,
        "memory_mib": memory,
        "methods_cpu_s": [one["trainer"]["cpu_s"] | one["list"]["cpu_s"] for one in rounds],
    }


def _publication(
    learnt: Report, indexed: Report, loaded: Report, place: Path, items: int
) -> dict[str, Any]:
    """What one publication cost, by part."""
    state = place / "state"
    bytes_of = {
        "checkpoint": sum(learnt["checkpoint_files"].values()),
        "handover": sum(learnt["handover_files"].values()),
        "snapshot": sum(indexed["snapshot_files"].values()),
    }
    cpu, indexing = learnt["cpu_s"], sum(indexed["cpu_s"].values())
    trainer_cpu = learnt["publication_cpu_s"]
    handed_over = [state / "handover" / name for name in learnt["handover_files"]]
    lists = [state / "snapshots" / name for name in indexed["snapshot_files"] if "/index/" in name]
    return {
        "cpu_s": round(trainer_cpu + indexing + loaded["load_cpu_s"], 3),
        "trainer_cpu_s": trainer_cpu,
        "checkpoint_cpu_s": cpu.get("checkpoints.save", 0.0),
        "handover_cpu_s": cpu.get("handovers.publish", 0.0),
        "indexer_cpu_s": round(indexing, 3),
        "reader_cpu_s": loaded["load_cpu_s"],
        "mb": round(sum(bytes_of.values()) / 1e6, 2),
        **{f"{name}_mb": round(size / 1e6, 2) for name, size in bytes_of.items()},
        "handover_vectors_share": round(_vectors(handed_over) / items, 5),
        "list_vectors_share": round(_vectors(lists) / items, 5),
        "lists_rebuilt": indexed["rebuilt"],
        "lists_shared": indexed["shared"],
        "reasons": indexed["reasons"],
    }


def _vectors(paths: Sequence[Path]) -> int:
    """How many vectors some files hold."""
    found = 0
    for path in paths:
        if path.suffix != ".safetensors" or not path.exists():
            continue
        with safe_open(path, framework="numpy") as file:
            names = set(file.keys()) & set(PLACES)
            found += sum(file.get_slice(name).get_shape()[0] for name in names)
    return found


def _queries(made: MadeCatalogue, first: int, count: int) -> Asked:
    """The events that come next, of users with a history."""
    asked = [one for one in made.sequences(first) if one.history_items][:count]
    return Asked(
        [(one.history_items, one.history_times) for one in asked],
        [one.event_time for one in asked],
        [one.target for one in asked],
    )


def _mean(reports: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The mean of every number."""
    numbers = [name for name, value in reports[0].items() if isinstance(value, int | float)]
    return {name: round(float(np.mean([one[name] for one in reports])), 5) for name in numbers}


def figure(report: Mapping[str, Any], path: Sequence[str]) -> float | None:
    for name in path:
        report = report.get(name, {})
    return None if report == {} else float(report)  # type: ignore[arg-type]


def table(sizes: Mapping[str, Mapping[str, Any]]) -> str:
    """The figures by size, and how the last two sizes compare."""
    names = list(sizes)
    growth = f"{int(names[-2]):,} to {int(names[-1]):,}" if len(names) > 1 else ""
    head = ["", *(f"{int(name):,}" for name in names), *([growth] if growth else [])]
    lines = [head, ["---"] * len(head)]
    for row, path in FIGURES.items():
        values = [figure(report, path) for report in sizes.values()]
        cells = ["" if value is None else f"{value:,.4g}" for value in values]
        if growth:
            before, after = values[-2], values[-1]
            cells.append(f"{after / before:.2f}x" if before and after is not None else "")
        lines.append([row, *cells])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def plot(sizes: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """A publication's processor time and bytes, a query's latency, and memory, by items."""
    from matplotlib.figure import Figure

    drawn: dict[str, dict[str, tuple[str, ...]]] = {
        "a publication, CPU s": {
            name: ("publication", f"{name}_cpu_s") for name in ("trainer", "indexer", "reader")
        },
        "a publication, MB written": {
            name: ("publication", f"{name}_mb") for name in ("checkpoint", "handover", "snapshot")
        },
        "a query, ms": {name: ("queries", f"{name}_ms") for name in ("p50", "p99")},
        "memory, MiB": {name: ("memory_mib", name) for name in ("trainer", "indexer", "readers")},
    }
    whole = Figure(figsize=(9, 6), layout="constrained")
    items = [int(name) for name in sizes]
    for axes, (title, rows) in zip(whole.subplots(2, 2).flat, drawn.items(), strict=True):
        for name, at in rows.items():
            values = [figure(report, at) for report in sizes.values()]
            axes.plot(items, values, marker="o", markersize=3, label=name)
        axes.set(xscale="log", yscale="log", xlabel="items", title=title)
        axes.grid(alpha=0.3, which="both")
        axes.legend()
    whole.savefig(path, dpi=110)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", default="10000,100000,1000000", help="sizes, with commas")
    parser.add_argument("--events", type=int, default=10_240, help="of a publication")
    parser.add_argument("--publications", type=int, default=3, help="measured")
    parser.add_argument("--warm-up", type=int, default=2, help="publications before those")
    parser.add_argument("--births", type=int, default=500, help="items born while the log runs")
    parser.add_argument("--users", type=int, default=4000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--exhaustive", type=int, default=300, help="queries searched so, too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--freshness", type=float, default=0.0, help="events a second; 0: not")
    parser.add_argument("--seconds", type=float, default=120.0, help="of the freshness")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the parts: one core each
    result = begun("catalogue", options)
    result["sizes"] = sizes = {}
    events = options.events * (options.warm_up + options.publications) + options.queries + DENSE
    for items in map(int, options.items.split(",")):
        size = CatalogueSize(items, events, options.users, births=options.births, seed=options.seed)
        with tempfile.TemporaryDirectory() as place:
            sizes[str(items)] = measure(size, options, Path(place))
        if options.freshness:
            sizes[str(items)]["freshness"] = freshness.of_catalogue(
                size, options.freshness, options.seconds
            )
        if options.out:  # a run may take long
            write(result, options)
    write(result, options)
    if options.plot:
        plot(sizes, options.plot)
    print(table(sizes))
    return result


if __name__ == "__main__":
    main()
