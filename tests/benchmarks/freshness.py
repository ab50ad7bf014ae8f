"""The pipeline's delays under a steady stream, as it measures them itself.

    python -m tests.benchmarks.freshness --rate 500 --seconds 300 --out freshness.json

The whole pipeline is started (`sparc up`) on a synthetic log that is replayed at `--rate` events a
second, and new items are listed all the while. Once a snapshot serves and `--warm-up` seconds have
passed, the histograms of `deploy.monitoring.freshness` are read from the service, and again
`--seconds` later; what is reported lies between the two.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
from kafka import KafkaProducer

from deploy import settings as configuration
from deploy.monitoring.delay_quantiles import buckets, quantile
from deploy.monitoring.part_status import read_status
from deploy.settings import ROOT, Settings
from streaming.items import Item
from streaming.statuses import ReplayStatus, ServiceStatus
from tests.benchmarks.made_catalogue import CatalogueSize, make
from tests.benchmarks.reports import begun, write

TARGETS = {"item_retrievable": 2.0, "click_in_history": 2.0, "click_learnt": 60.0}
"""Seconds within which 95 % are to be."""
FIRST_NEW_ITEM = 10**9
PATIENCE_SECONDS = 600.0
EVENTS_OF_A_USER = 15
"""In the log of a made catalogue."""


def read(address: str) -> dict[str, list[tuple[float, float]]]:
    """The service's histograms."""
    return buckets(httpx.get(f"{address}/metrics", timeout=10).raise_for_status().text)


def between(
    before: dict[str, list[tuple[float, float]]], after: dict[str, list[tuple[float, float]]]
) -> dict[str, dict[str, Any]]:
    """Quantiles of what was observed between two readings."""
    report = {}
    for name, target in TARGETS.items():
        counts = [
            (bound, b - a) for (bound, b), (_, a) in zip(after[name], before[name], strict=True)
        ]
        p95 = quantile(counts, 0.95)
        report[name] = {
            "count": int(counts[-1][1]),
            "p50_s": quantile(counts, 0.5),
            "p95_s": p95,
            "target_p95_s": target,
            "met": p95 is not None and p95 <= target,
        }
    return report


def ready(process: subprocess.Popen[bytes], data_dir: Path) -> Settings:
    """Wait until a snapshot serves."""
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            raise SystemExit(f"the pipeline ended with {process.returncode}; see {data_dir}/logs")
        if read_status(data_dir, ServiceStatus).ready:
            return configuration.load(data_dir=data_dir)
        time.sleep(0.5)
    raise SystemExit(f"no snapshot serves after {PATIENCE_SECONDS:.0f} s")


def listing(settings: Settings, seconds: float, each: float, first: int) -> int:
    """List a new item every `each` seconds; the id after the last."""
    topic = settings.kafka.topics().items
    producer = KafkaProducer(bootstrap_servers=settings.bootstrap, linger_ms=0)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        item = Item(first, f"new thing {first}", "new", listed_at=int(time.time() * 1000))
        producer.send(topic, key=item.key(), value=item.to_bytes())
        producer.flush()
        first += 1
        time.sleep(each)
    producer.close()
    return first


def of_catalogue(size: CatalogueSize, rate: float, seconds: float) -> dict[str, Any]:
    """The delays with a made catalogue, whose log is as long as it must be."""
    options = argparse.Namespace(rate=rate, seconds=seconds, warm_up=60.0, listing=0.5)
    clicks = _events(options)
    with tempfile.TemporaryDirectory() as place:
        made = make(replace(size, events=clicks, users=clicks // EVENTS_OF_A_USER))
        events, items = made.write(Path(place) / "log")
        files = ["--events", str(events), "--items", str(items)]
        return play(options, Path(place) / "state", files)


def _events(options: argparse.Namespace) -> int:
    return int(options.rate * (options.seconds + options.warm_up + PATIENCE_SECONDS))


def play(options: argparse.Namespace, data_dir: Path, files: Sequence[str] = ()) -> dict[str, Any]:
    """One run of the pipeline, on a synthetic log if no files are given."""
    environment = {}
    if not files:
        synthetic = {"EVENTS": _events(options), "USERS": options.users, "ITEMS": options.items}
        environment = {f"SPARC_REPLAY__SYNTHETIC__{k}": str(v) for k, v in synthetic.items()}
    command = [sys.executable, "-m", "deploy", "up", "--data-dir", str(data_dir), *files]
    with (data_dir.parent / "output").open("wb") as output:
        process = subprocess.Popen(
            [*command, "--rate", str(options.rate)],
            cwd=ROOT,
            env=os.environ | environment,
            stdout=output,
            stderr=output,
        )
        try:
            settings = ready(process, data_dir)
            address = read_status(data_dir, ServiceStatus).address
            first = listing(settings, options.warm_up, options.listing, FIRST_NEW_ITEM)
            before, clicks = read(address), read_status(data_dir, ReplayStatus).clicks_produced
            began = time.monotonic()
            listing(settings, options.seconds, options.listing, first)
            after = read(address)
            took = time.monotonic() - began
            sent = read_status(data_dir, ReplayStatus).clicks_produced - clicks
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(120)
            except subprocess.TimeoutExpired:
                process.kill()
    return {
        "events_per_second": round(sent / took, 1),
        "load_average": round(os.getloadavg()[0], 2),
        "delays": between(before, after),
    }


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=500.0)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--warm-up", type=float, default=60.0)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=12_000)
    parser.add_argument("--listing", type=float, default=0.5, help="seconds between new items")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    result = begun("freshness", options)
    with tempfile.TemporaryDirectory() as place:
        result |= play(options, Path(place) / "state")
    write(result, options)
    return result


if __name__ == "__main__":
    main()
