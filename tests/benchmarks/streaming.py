"""The streaming job measured: against peers, by feature, by users, for freshness, and its clients.

    python -m tests.benchmarks.streaming --out streaming.json
    python -m tests.benchmarks.streaming --events 50000 --parts peers --only ours-heap,bare

A broker and a Flink cluster are started for it. The log of a part is written to a topic once, and
each contender reads it from the beginning and writes to topics of its own, until they hold a record
for each event, committed. Rates are taken between a fifth and the end of what is written, which
leaves start-up and the last commit aside: events per second, and per second of processor time of
all processes but the broker, which says more on a machine that does other things too. The peers'
packages are installed into an environment of their own the first time.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.benchmarks.streaming_clients import clients
from tests.benchmarks.streaming_contenders import BASE, CONTENDERS, Ours, Peer
from tests.benchmarks.streaming_freshness import freshness
from tests.benchmarks.streaming_services import Log, Services, cpu_clock, facts, services

SILENCE_SECONDS = 180.0
PARTS = ("peers", "features", "users", "freshness", "clients")
USERS = (1_000, 20_000, 200_000, 1_000_000)
OTHERS = ("duplicates", "late", "dead letters")


def measure(
    services: Services, log: Log, name: str, contender: Ours | Peer, patience: float
) -> dict[str, Any]:
    """Run one contender to the end of a log, or for `patience` seconds after its first record."""
    report: dict[str, Any] = {"name": name}
    processor = cpu_clock(services.broker)
    began = time.monotonic()
    samples: list[tuple[float, int, float]] = []  # seconds, records written, processor seconds
    end = 0
    try:
        with contender.run(services, log, f"{name.replace(' ', '-')}-{log.topic}") as running:
            written = services.ends(running.topics, committed=False)
            committed = services.ends(running.topics, committed=True)
            while end < log.outcomes:
                time.sleep(0.25)
                now, there = time.monotonic() - began, written()
                if there and (not samples or there > samples[-1][1]):
                    samples.append((now, there, processor()[1]))
                end = committed()
                if samples and now - samples[0][0] > patience:
                    break
                # dead, or its last transaction stays open
                if now - (samples[-1][0] if samples else 0.0) > SILENCE_SECONDS:
                    break
            seconds = time.monotonic() - began
            at_broker, elsewhere = processor()
            running.finish()
        report["records"] = services.records(running.topics)
        report |= running.facts
        services.delete(*running.topics)
    except RuntimeError as error:
        return report | {"failed": str(error)}
    if len(samples) < 2:
        return report | {"failed": f"wrote nothing in {seconds:.0f} s"}
    fifth = next(s for s in samples if s[1] >= samples[-1][1] // 5)
    events, span, work = (
        (last - first) for first, last in zip(_steady(fifth), _steady(samples[-1]), strict=True)
    )
    each = log.events / log.outcomes
    return report | {
        "complete": report["records"] == log.outcomes,
        "start_up_seconds": round(samples[0][0], 1),
        "seconds": round(seconds - samples[0][0], 1),
        "events_per_second": round(events * each / max(1e-9, span)),
        "events_per_cpu_second": round(events * each / max(1e-9, work)),
        "cpu_seconds": round(elsewhere, 1),
        "broker_cpu_seconds": round(at_broker, 1),
    }


def _steady(sample: tuple[float, int, float]) -> tuple[float, float, float]:
    """Records, seconds and processor seconds."""
    return sample[1], sample[0], sample[2]


def runs(
    services: Services, args: argparse.Namespace, part: str
) -> Iterator[tuple[Log, str, Ours | Peer]]:
    """What a part measures, in order; each log is written before its first run."""

    def log(name: str, users: int = args.users, other: str = "") -> Log:
        made = Log(name, args.events, users, args.seed, other)
        made.write(services)
        return made

    if part == "peers":
        plain = log("clicks")
        for name in args.only.split(",") if args.only else CONTENDERS:
            yield plain, name, CONTENDERS[name]
        if not args.only:
            yield plain, "ours-heap again", CONTENDERS["ours-heap"]
    elif part == "features":
        plain = log("clicks-features")
        yield plain, "as it is", Ours(BASE)
        yield plain, "one event id remembered", Ours(replace(BASE, dedup_horizon=1))
        yield plain, "at least once", Ours(replace(BASE, delivery="at-least-once"))
        yield plain, "checkpoints of 5 s", Ours(replace(BASE, checkpoint_interval_ms=5000))
        for other in OTHERS:
            yield (
                log(f"clicks-{other.replace(' ', '-')}", other=other),
                f"a tenth {other}",
                Ours(BASE),
            )
    elif part == "users":
        for users in USERS:
            among = log(f"clicks-{users}", users)
            for backend in ("hashmap", "rocksdb"):
                yield among, f"{users} {backend}", Ours(replace(BASE, state_backend=backend))


def main() -> int:
    """Run the parts one after the other; one JSON object per run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--partitions", type=int, default=2)
    parser.add_argument("--heap-mb", type=int, default=2048)
    parser.add_argument("--managed-mb", type=int, default=512)
    parser.add_argument("--parts", default=",".join(PARTS), help="separated by commas")
    parser.add_argument("--only", default="", help=f"of the peers: {', '.join(CONTENDERS)}")
    parser.add_argument("--patience", type=float, default=300.0, help="seconds for each run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    parts = args.parts.split(",")
    chosen = args.only.split(",") if args.only else []
    if unknown := [*(set(parts) - set(PARTS)), *(set(chosen) - CONTENDERS.keys())]:
        parser.error(f"no part or contender {', '.join(unknown)}")
    report = facts() | {
        "settings": {k: v for k, v in vars(args).items() if k != "out"},
    }

    def keep() -> None:
        text = json.dumps(report, indent=2) + "\n"
        if args.out:
            args.out.write_text(text, encoding="utf-8")

    with services(args.partitions, args.heap_mb, args.managed_mb) as shared:
        for part in parts:
            found: list[dict[str, Any]] = []
            steps: Iterator[dict[str, Any]]
            report[part] = found
            if part == "clients":
                steps: Iterator[dict[str, Any]] = clients(
                    shared, args.events, args.users, args.seed
                )
            elif part == "freshness":
                steps = freshness(shared)
            else:
                steps = (
                    measure(shared, log, name, contender, args.patience)
                    for log, name, contender in runs(shared, args, part)
                )
            for step in steps:
                found.append(step)
                print(json.dumps({"part": part, **step}), flush=True)
                keep()
    if not args.out:
        print(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
