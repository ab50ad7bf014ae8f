"""The section "Streaming" of docs/RESULTS.md, from what the benchmark has measured.

python -m tests.benchmarks.streaming_tables streaming.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

OURS = "ours-heap"
OURS_AS_PEERS = "ours-heap-5s"
"""With checkpoints as far apart as the peers' commits."""
DURABLE = ("bytewax-1", "bytewax-2", "quix-1", "quix-2", "quix-2-at-least-once", "datastream")
"""Peers that keep their state over a crash."""
WORDS = {
    "ours-heap": "SPARC's job, heap state, exactly once",
    "ours-heap-5s": "SPARC's job, heap state, exactly once, checkpoints of 5 s as the peers commit",
    "ours-heap-5s-lz4": "the same, batches compressed with lz4",
    "ours-rocksdb": "SPARC's job, RocksDB state, exactly once",
    "ours-heap-at-least-once": "SPARC's job, heap state, at least once",
    "ours-heap-one-slot": "SPARC's job, heap state, exactly once, one slot",
    "ours-heap again": "the first again, at the end",
    "bytewax-1": "Bytewax, SQLite recovery, at least once, 1 process",
    "bytewax-2": "Bytewax, SQLite recovery, at least once, 2 processes",
    "quix-1": "Quix Streams, RocksDB and changelog, exactly once, 1 process",
    "quix-2": "Quix Streams, RocksDB and changelog, exactly once, 2 processes",
    "quix-2-at-least-once": "Quix Streams, RocksDB and changelog, at least once, 2 processes",
    "bare": "kafka-python and a dict, nothing durable",
    "datastream": "PyFlink DataStream, keyed state in Python, exactly once",
}
Rows = Sequence[Sequence[object]]


def table(head: Sequence[str], rows: Rows) -> str:
    """A Markdown table; numbers with thousands separated."""

    def shown(cell: object) -> str:
        return f"{cell:,}" if isinstance(cell, int | float) else str(cell)

    lines = [head, ["---"] * len(head), *([shown(c) for c in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def throughput(report: dict[str, Any]) -> str:
    """Ours and the peers, with what was asked for and whether it is met."""
    runs = {run["name"]: run for run in report.get("peers", [])}
    rows = [
        [WORDS[name], run.get("events_per_second", "failed"), run.get("events_per_cpu_second", "")]
        for name, run in runs.items()
    ]
    text = table(["contender", "events/s", "events/CPU s"], rows)
    ours, compared = runs.get(OURS, {}), runs.get(OURS_AS_PEERS, runs.get(OURS, {}))
    peers = [runs[n] for n in DURABLE if "events_per_second" in runs.get(n, {})]
    if "events_per_second" in ours and "events_per_second" in compared and peers:
        rows = [["events/s, exactly once", "at least 50,000", ours["events_per_second"]]]
        for key, words in (("events_per_second", "time"), ("events_per_cpu_second", "CPU time")):
            fastest = max(peers, key=lambda run: run[key])
            rows.append(
                [
                    f"over the fastest durable peer in Python, by {words} "
                    f"({compared['name']} over {fastest['name']})",
                    "at least 2 x",
                    f"{compared[key] / fastest[key]:.1f} x",
                ]
            )
        text += "\n" + table(["what", "asked for", "measured"], rows)
    return text


def by_run(report: dict[str, Any], part: str, columns: dict[str, str]) -> str:
    """A row for each run of a part; `columns` are titles by key."""
    rows = [[run["name"], *(run.get(key, "-") for key in columns)] for run in report.get(part, [])]
    return table(["", *columns.values()], rows)


def section(report: dict[str, Any]) -> str:
    """The whole section."""
    settings, machine = report["settings"], report["machine"]
    rates = {"events_per_second": "events/s", "events_per_cpu_second": "events/CPU s"}
    parts = [
        "## Streaming\n",
        "```console\n$ python -m tests.benchmarks.streaming --out streaming.json\n```\n",
        f"{settings['events']:,} events of {settings['users']:,} users, histories up to 50, a Zipf "
        f"catalogue, seed {settings['seed']}, {settings['partitions']} partitions; "
        f"{machine['cores']} cores ({machine['processor']}), broker and cluster among them, load "
        f"average {machine['load_average']} at the start; {_listed(report['versions'])}; "
        f"{_listed(report['versions_of_peers'])}. Rates are those from a fifth to the end of what "
        "is written. CPU time is of all processes but the broker.\n",
    ]
    if report.get("peers"):
        parts += ["### Against others, on the same topic\n", throughput(report)]
    if report.get("features"):
        parts += ["### What each feature costs\n", by_run(report, "features", rates)]
    if report.get("users"):
        sizes = {"state_mb": "state, MB", "checkpoint_ms": "checkpoint, ms"}
        parts += ["### By the number of users\n", by_run(report, "users", rates | sizes)]
    if report.get("freshness"):
        columns = {"p50_ms": "p50, ms", "p95_ms": "p95, ms", "p99_ms": "p99, ms"}
        parts += [
            "### From event to `sequences`, at 1,000 events/s\n",
            by_run(report, "freshness", columns),
            "Live, the bound on disorder (`out_of_orderness_ms`) is waited for in full.\n",
        ]
    if report.get("clients"):
        parts += ["### The Python clients\n", by_run(report, "clients", rates)]
    return "\n".join(parts)


def _listed(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


if __name__ == "__main__":
    print(section(json.loads(Path(sys.argv[1]).read_text())))
