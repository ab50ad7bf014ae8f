"""The contenders of the streaming benchmark: our job in several configurations, and its peers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from streaming.job.flink_rest import FINAL_STATES, FlinkRest
from streaming.job.settings import JobConfig, JobEnvironment
from streaming.job.submission import submit_in_subprocess
from streaming.topics import Topics
from tests.benchmarks.streaming_services import ROOT, Log, Services, free_ports, peers_python

REMEMBERED = 1000
PEERS = "tests.benchmarks.streaming_peers"


@dataclass
class Running:
    """A contender at work: the topics that it writes to, and what it tells at its end."""

    topics: list[str]
    facts: dict[str, Any] = field(default_factory=dict)

    def finish(self) -> None:
        """Look at what is gone once it is stopped."""


@dataclass
class RunningJob(Running):
    """Our job; `finish` asks for the size of its last checkpoint."""

    rest: FlinkRest | None = None
    job: str = ""

    def finish(self) -> None:
        """Size and duration of the last checkpoint."""
        assert self.rest is not None
        body = self.rest._get(f"/jobs/{self.job}/checkpoints")
        latest = (body.get("latest") or {}).get("completed") or {}
        self.facts = {
            "state_mb": round(latest.get("state_size", 0) / 2**20, 1),
            "checkpoint_ms": latest.get("end_to_end_duration", 0),
            "checkpoints": body["counts"]["completed"],
            "restarts": self.rest.restarts(self.job),
        }


@dataclass(frozen=True)
class Ours:
    """A configuration of our job."""

    config: JobConfig

    @contextmanager
    def run(self, services: Services, log: Log, name: str) -> Iterator[Running]:
        """Run it on a log."""
        topics = replace(Topics().prefixed(f"{name}-"), clicks=log.topic)
        out = [topics.sequences, topics.clicks_late, topics.clicks_dlq]
        services.create(*out)
        environment = JobEnvironment(
            services.bootstrap,
            services.flink,
            services.jars,
            (services.folder / name).as_uri(),
            topics,
            tls=services.tls,
        )
        job = submit_in_subprocess(replace(self.config, name=name), environment)
        rest = FlinkRest(services.flink, services.tls)
        try:
            yield RunningJob(out, rest=rest, job=job)
        finally:
            rest.cancel(job)
            while rest.state(job) not in (*FINAL_STATES, "UNKNOWN"):
                time.sleep(0.2)
            rest.close()


@dataclass(frozen=True)
class Peer:
    """A script of `streaming_peers`, as a process or several; `own` in the peers' environment."""

    module: str
    processes: int = 1
    delivery: str = "exactly-once"
    commit_ms: int = 5000
    own: bool = True

    @contextmanager
    def run(self, services: Services, log: Log, name: str) -> Iterator[Running]:
        """Run it on a log."""
        topic = f"{name}-sequences"
        services.create(topic)
        addresses = [f"127.0.0.1:{port}" for port in free_ports(self.processes)]
        processes = []
        try:
            for number in range(self.processes):
                arguments = {
                    "bootstrap": services.bootstrap,
                    "input": log.topic,
                    "output": topic,
                    "state": str(services.folder / name),
                    "remembered": REMEMBERED,
                    "delivery": self.delivery,
                    "commit_ms": self.commit_ms,
                    "number": number,
                    "addresses": addresses,
                    "flink": self._flink(services, name),
                }
                python = peers_python() if self.own else sys.executable
                with (services.folder / f"{name}-{number}.log").open("wb") as output:
                    processes.append(
                        subprocess.Popen(
                            [python, "-m", f"{PEERS}.{self.module}", json.dumps(arguments)],
                            cwd=ROOT,
                            stdout=output,
                            stderr=subprocess.STDOUT,
                            env={**os.environ, "OMP_NUM_THREADS": "1"},
                        )
                    )
            yield Running([topic])
            for number, process in enumerate(processes):
                if process.poll() is not None:
                    said = (services.folder / f"{name}-{number}.log").read_text(errors="replace")
                    raise RuntimeError(f"ended with {process.returncode}: {said[-400:]}")
        finally:
            for process in processes:
                with_children = [process.pid]
                if process.poll() is None:
                    with_children += [c.pid for c in psutil.Process(process.pid).children(True)]
                for pid in with_children:
                    if psutil.pid_exists(pid):
                        psutil.Process(pid).kill()
                process.wait()

    def _flink(self, services: Services, name: str) -> dict[str, str]:
        """Settings of a PyFlink job in the process of its script."""
        return {
            "pipeline.jars": ";".join(Path(jar).as_uri() for jar in services.jars),
            "parallelism.default": str(min(2, services.partitions)),
            "python.executable": sys.executable,
            "python.client.executable": sys.executable,
            "execution.checkpointing.interval": f"{self.commit_ms} ms",
            "execution.checkpointing.dir": (services.folder / f"{name}-checkpoints").as_uri(),
        }


BASE = JobConfig(parallelism=2, dedup_horizon=REMEMBERED)
CONTENDERS: dict[str, Ours | Peer] = {
    "ours-heap": Ours(BASE),
    "ours-heap-5s": Ours(replace(BASE, checkpoint_interval_ms=Peer.commit_ms)),
    "ours-heap-5s-lz4": Ours(
        replace(BASE, checkpoint_interval_ms=Peer.commit_ms, properties={"compression.type": "lz4"})
    ),
    "ours-rocksdb": Ours(replace(BASE, state_backend="rocksdb")),
    "ours-heap-at-least-once": Ours(replace(BASE, delivery="at-least-once")),
    "ours-heap-one-slot": Ours(replace(BASE, parallelism=1)),
    "bytewax-1": Peer("bytewax_flow", delivery="at-least-once"),
    "bytewax-2": Peer("bytewax_flow", processes=2, delivery="at-least-once"),
    "quix-1": Peer("quix"),
    "quix-2": Peer("quix", processes=2),
    "quix-2-at-least-once": Peer("quix", processes=2, delivery="at-least-once"),
    "bare": Peer("bare", delivery="none", own=False),
    "datastream": Peer("datastream", own=False),
}
