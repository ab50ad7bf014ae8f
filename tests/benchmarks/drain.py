"""A log drained by the whole pipeline: how long, how much memory and processor by part, how well.

    python -m tests.benchmarks.drain --items 1000000 --events 30000 --out drain.json
    python -m tests.benchmarks.drain --log events.csv --catalogue items.csv --out drain.json

`sparc up --drain` is run on the log, or on one that is made (`made_catalogue`), in a directory of
its own, from the first process to the summary. Every five seconds the memory of all its processes
is looked at (once a second took an eighth of a core): PSS counts what n of them share as an n-th
for each, so the parts add up. Processor seconds are those of every process, as last seen.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from deploy.settings import ROOT
from tests.benchmarks.made_catalogue import CatalogueSize, make
from tests.benchmarks.process_costs import MIB
from tests.benchmarks.reports import begun, write

JAVA = {
    "kafka.Kafka": "kafka",
    "StandaloneSession": "jobmanager",
    "TaskManagerRunner": "taskmanager",
}
LOOK_S = 5.0
KEPT = "runs everything"
"""Supervisor, and what starts others."""


def part_of(command: Sequence[str]) -> str:
    """The part that a process belongs to."""
    line = " ".join(command)
    for name, part in JAVA.items():
        if name in line:
            return part
    if "mlflow" in line:
        return "mlflow"
    if "deploy" in command and command[-1] != "deploy":
        return command[list(command).index("deploy") + 1]
    return KEPT


class Watch:
    """What the processes below one take, by part.

    Attributes:
        peaks_mib: the most memory that was seen of each part, and of all together as "whole".
        cpu_s: processor seconds by part.
    """

    def __init__(self, root: psutil.Process) -> None:
        self._root = root
        self.peaks_mib: defaultdict[str, int] = defaultdict(int)
        self._cpu: dict[tuple[int, float], tuple[str, float]] = {}

    def look(self) -> None:
        sizes: defaultdict[str, int] = defaultdict(int)
        for process in [self._root, *self._root.children(recursive=True)]:
            try:
                part = part_of(process.cmdline())
                sizes[part] += process.memory_full_info().pss
                times = process.cpu_times()
                identity = process.pid, process.create_time()
                self._cpu[identity] = part, times.user + times.system
            except psutil.Error:
                continue  # it has ended
        sizes["whole"] = sum(sizes.values())
        for part, size in sizes.items():
            self.peaks_mib[part] = max(self.peaks_mib[part], size // MIB)

    @property
    def cpu_s(self) -> dict[str, float]:
        found: defaultdict[str, float] = defaultdict(float)
        for part, seconds in self._cpu.values():
            found[part] = round(found[part] + seconds, 1)
        return dict(found)


def drain(events: Path, items: Path | None, place: Path, patience_s: float) -> dict[str, Any]:
    """One run, from nothing."""
    files = ["--events", str(events), *(["--items", str(items)] if items else [])]
    data_dir = place / "state"
    command = [sys.executable, "-m", "deploy", "up", "--drain", "--data-dir", str(data_dir)]
    said, progress = place / "output", place / "progress"
    began = time.monotonic()
    with said.open("wb") as output, progress.open("wb") as errors:
        process = subprocess.Popen([*command, *files], cwd=ROOT, stdout=output, stderr=errors)
        watch = Watch(psutil.Process(process.pid))
        look_at = 0.0
        while process.poll() is None:
            if time.monotonic() - began > patience_s:
                process.terminate()
            if time.monotonic() >= look_at:
                watch.look()
                look_at = time.monotonic() + LOOK_S
            time.sleep(0.2)
    lines = said.read_text(encoding="utf-8").splitlines()
    disk = sum(path.stat().st_blocks for path in _files(data_dir)) * 512
    return {
        "seconds": round(time.monotonic() - began, 1),
        "exit_code": process.returncode,
        "memory_mib": dict(watch.peaks_mib),
        "cpu_s": watch.cpu_s,
        "disk_mb": round(disk / 1e6, 1),
        "summary": json.loads(lines[-1]) if process.returncode == 0 else None,
        "last_words": progress.read_text(encoding="utf-8", errors="replace")[-2000:]
        if process.returncode
        else "",
    }


def _files(directory: Path) -> list[Path]:
    """Every file once, whatever names it has."""
    files = {path.lstat().st_ino: path for path in directory.rglob("*") if path.is_file()}
    return list(files.values())


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--log", type=Path, help="events; without it, a log is made")
    parser.add_argument("--catalogue", type=Path, help="items of --log")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--events", type=int, default=30_000)
    parser.add_argument("--users", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--patience", type=float, default=3600.0, help="seconds until it is ended")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    result = begun("drain", options)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        log, catalogue = options.log, options.catalogue
        if log is None:
            size = CatalogueSize(options.items, options.events, options.users, seed=options.seed)
            log, catalogue = make(size).write(place / "log")
        result |= drain(log, catalogue, place, options.patience)
    write(result, options)
    return result


if __name__ == "__main__":
    main()
