"""The service under a steady load, beside an endpoint that only knows what is popular.

    python -m tests.benchmarks.service --data ../shared/data/beauty --out service.json

A snapshot is learnt from the newest `--learnt` events of the log, and the histories of all users
are stored; then `sparc serve` answers from them, without Kafka. wrk asks at `--rate` queries a
second, at times that are independent of each other and of the answers: for users that exist
(seven of ten), for histories in the request, for new users. The popular items are asked for in
turn with that, in the same run, which shows what HTTP itself costs on the machine.

`--workers 1,2` repeats it with so many worker processes, and then asks as fast as it goes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

from deploy.service.popularity_baseline import PopularityBaseline
from deploy.service.user_histories import HistoryRecord, UserHistories
from deploy.service.workers import noted
from indexer.snapshots.pointer import Pointer, snapshot_path, write_pointer
from model.artifacts.manifest import read_manifest
from model.evaluation.protocol import read_events, read_items
from model.evaluation.user_sequences import SequencesOfUsers
from model.learning.config import LearnerConfig
from model.learning.learner import Learner
from streaming.events import UserSequence
from streaming.items import Item
from tests.benchmarks.reports import begun, write
from tests.benchmarks.streaming_services import free_ports
from tests.deploy.snapshot_maker import publish

MICRO_BATCH = 256
BODIES = 5_000
CONNECTIONS = 100
"""Of the load with a rate; each waits for a while, exponentially distributed, between requests."""
FEW, MANY = 1, 8
"""Connections of the load without a rate."""
SCRIPT = """
local bodies = {}
if BODIES ~= "" then
  for line in io.lines(BODIES) do bodies[#bodies + 1] = line end
end
local at = 0
request = function()
  if #bodies == 0 then return wrk.format("GET") end
  at = at % #bodies + 1
  return wrk.format("POST", nil, {["Content-Type"] = "application/json"}, bodies[at])
end
if PAUSE > 0 then
  delay = function() return math.floor(-PAUSE * math.log(1 - math.random()) + 0.5) end
end
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\\n{"requests": %d, "us": %d, "not_200": %d, "lost": %d, "p50": %d, "p95": %d, "p99": %d}',
    summary.requests, summary.duration, e.status, e.connect + e.read + e.write + e.timeout,
    latency:percentile(50), latency:percentile(95), latency:percentile(99)))
end
"""


def learnt(data_dir: Path, items: list[Item], sequences: list[UserSequence]) -> None:
    """A snapshot learnt from some events, which serves."""
    learner = Learner(LearnerConfig())
    learner.list_items(items)
    for a in range(0, len(sequences), MICRO_BATCH):
        learner.learn(sequences[a : a + MICRO_BATCH])
    facts = {
        "version": 1,
        "parent": None,
        "sequence": 1,
        "event_time_range": [sequences[0].event_time, sequences[-1].event_time],
        "trained_events": len(sequences),
        "indexed_items": len(items),
    }
    publish(data_dir, facts, learner, items)
    path = snapshot_path(1)
    digest = read_manifest(data_dir / path, "snapshot").digest
    write_pointer(data_dir, Pointer(1, path, digest, (), sequences[-1].event_time))


def remember(folder: Path, sequences: list[UserSequence]) -> None:
    """The histories of all users, and what is popular, as a service left them."""
    popularity = PopularityBaseline(path=folder / "popularity.json")
    popularity.add([(0, at, s) for at, s in enumerate(sequences)])
    popularity.save()
    histories = UserHistories(folder / "histories")
    records = [HistoryRecord("s", 0, at, s.to_bytes()) for at, s in enumerate(sequences)]
    histories.store(records, {("s", 0): len(records)})
    histories.close()


def questions(sequences: list[UserSequence], seed: int) -> list[str]:
    """Bodies of requests for 50 items."""
    draw = random.Random(seed)
    bodies: list[dict[str, Any]] = []
    for _ in range(BODIES):
        one, kind = draw.choice(sequences), draw.random()
        if kind < 0.7:
            bodies.append({"user_id": one.user_id, "k": 50})
        elif kind < 0.95:
            bodies.append({"history": one.history_items, "k": 50})
        else:
            bodies.append({"user_id": -draw.randrange(1, 10**9), "k": 50})
    return [json.dumps(body) for body in bodies]


@contextmanager
def service(data_dir: Path, workers: int) -> Iterator[str]:
    """The address of `sparc serve` on a data directory, once all workers answer."""
    port, away = free_ports(2)
    settings = {
        "SPARC_PORTS__SERVICE": str(port),
        "SPARC_KAFKA__BOOTSTRAP": f"127.0.0.1:{away}",
        "SPARC_SERVICE__WORKERS": str(workers),
        "OMP_NUM_THREADS": "1",
    }
    sparc = [Path(sys.executable).with_name("sparc"), "serve", "--data-dir", str(data_dir)]
    with ExitStack() as stack:
        log = stack.enter_context((data_dir / "serve.log").open("wb"))
        process = subprocess.Popen(sparc, env={**os.environ, **settings}, stdout=log, stderr=log)
        stack.callback(process.wait, 30)
        stack.callback(process.terminate)
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 120
        ready = 0
        while ready < 8 * workers:  # connections are dealt out at random
            try:
                ready = ready + 1 if httpx.get(f"{address}/ready").status_code == 200 else 0
            except httpx.HTTPError:
                ready = 0
            if time.monotonic() > deadline:
                raise RuntimeError((data_dir / "serve.log").read_text()[-2000:])
            if not ready or len(noted(data_dir)) < (workers if workers > 1 else 0):
                ready = 0
                time.sleep(0.2)
        yield address


def load(
    address: str, bodies: Path | None, seconds: int, rate: float | None, connections: int
) -> dict[str, Any]:
    """What wrk says of a load on an address; POST with the lines of `bodies`, else GET."""
    pause = 1000 * connections / rate if rate is not None else 0.0
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(f"PAUSE = {pause}\nBODIES = {json.dumps(str(bodies or ''))}\n{SCRIPT}")
        script.flush()
        command = [
            "wrk",
            "-t",
            "1",
            "-c",
            str(connections),
            "-d",
            f"{seconds}s",
            "--timeout",
            "10s",
        ]
        ran = subprocess.run(
            [*command, "-s", script.name, address], check=True, capture_output=True, text=True
        )
    said = json.loads(ran.stdout.splitlines()[-1])
    return {
        "requests": said["requests"],
        "not_200": said["not_200"],
        "lost": said["lost"],
        "per_second": round(said["requests"] / said["us"] * 1e6, 1),
        **{f"{q}_ms": round(said[q] / 1000, 2) for q in ("p50", "p95", "p99")},
    }


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="holds events.csv and items.csv")
    parser.add_argument("--learnt", type=int, default=20_000, help="events behind the snapshot")
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=lambda s: [int(n) for n in s.split(",")], default=[1, 2])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        parser.error("wrk is not on the path: apt-get install wrk")
    report = begun("service", options) | {"loads": []}
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder)
        sequences = list(SequencesOfUsers().take(read_events(options.data / "events.csv")))
        learnt(data_dir, read_items(options.data / "items.csv"), sequences[-options.learnt :])
        remember(data_dir / "service", sequences)
        bodies = data_dir / "bodies"
        bodies.write_text("\n".join(questions(sequences, options.seed)) + "\n")
        for workers in options.workers:
            with service(data_dir, workers) as address:
                endpoints = {
                    "retrieve": (f"{address}/v1/retrieve", bodies),
                    "popular": (f"{address}/v1/popular?k=50", None),
                }
                for place in endpoints.values():
                    load(*place, 5, options.rate, CONNECTIONS)  # warm
                for round_ in range(options.rounds):
                    for name, place in endpoints.items():
                        measured = load(*place, options.seconds, options.rate, CONNECTIONS)
                        line = {"endpoint": name, "workers": workers, "rate": options.rate}
                        report["loads"].append(line | {"round": round_} | measured)
                for connections in (FEW, MANY):
                    for name, place in endpoints.items():
                        measured = load(*place, options.seconds // 2, None, connections)
                        line = {"endpoint": name, "workers": workers, "connections": connections}
                        report["loads"].append(line | measured)
    write(report, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
