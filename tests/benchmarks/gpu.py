"""What a GPU does for learning and searching, measured in one run of at most five minutes.

    python -m tests.benchmarks.gpu --data DIRECTORY --out gpu.json
    python -m tests.benchmarks.gpu --device cpu --batches 256 --items 20000 --out here.json

It needs files, Python 3.12, torch, NumPy, safetensors and PyArrow, and nothing else that the
project asks for: no Kafka, no Flink, no MLflow. DIRECTORY holds `events.csv` and `items.csv`
(Beauty's); without it a made catalogue of 12,000 items stands for it. Beside it stands one of
`--items`, made in the run. What is measured (`tests.benchmarks.gpu_measures` says how):

- the machine: dense products of 16 and 32 bits, and copies, which all else is compared with;
- steps: ms and events a second of `Learner.learn` for micro-batches of each size, each one step
  with its replay, where the host's time goes, what one step launches and the device does with it;
- the softmax over the candidates alone: its share of what the machine does in dense products;
- parity: recall of a short prequential run on the device and on the CPU;
- search: queries a second over lists on the CPU and on the device, alone and 64 together, the
  memory that they take there, and whether they answer alike.

A part that fails says so in its place, and one that time is not left for is left out. The table
comes last; the JSON is written after each part.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

try:
    import orjson  # noqa: F401
except ImportError:  # only records of Kafka are read with it
    sys.modules["orjson"] = types.ModuleType("orjson")

import torch

from tests.benchmarks import gpu_measures
from tests.benchmarks.gpu_measures import Stream

BEAUTY_ITEMS = 12_000
GRACE_S = 15
"""Of the limit, for what is under way, and for the table."""


def options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="directory of events.csv and items.csv")
    parser.add_argument("--items", type=int, default=1_000_000, help="of the large catalogue")
    parser.add_argument("--batches", default="256,1024,4096,16384")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--events", type=int, default=20_000, help="learnt for parity, half asked")
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--small", type=int, default=BEAUTY_ITEMS, help="items where no --data is")
    parser.add_argument("--steps", type=int, default=50, help="most of each size")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for all of it")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args(arguments)


def measured(asked: argparse.Namespace) -> dict[str, Any]:
    """Everything that there was time for, by part."""
    began = time.perf_counter()
    device, found = torch.device(asked.device), dict[str, Any]()
    batches, most = [int(size) for size in asked.batches.split(",")], asked.steps

    def left() -> float:
        return float(asked.limit - GRACE_S - (time.perf_counter() - began))

    def part(name: str, share: float, work: Callable[[float], Any]) -> Any:
        """Do a part within its share of the time that is left; returns None where it failed."""
        seconds, since = left() * share, time.perf_counter()
        if seconds < 1:
            found[name] = {"left out": "no time was left"}
            return None
        result = None
        try:
            with at_most(seconds + GRACE_S / 3):
                result = work(seconds)
            found[name] = result if isinstance(result, dict) else {}
        except Exception as error:
            found[name] = {"failed": f"{type(error).__name__}: {error}"[:500]}
        found[name] = found[name] | {"took_s": round(time.perf_counter() - since, 1)}
        print(f"{name}: {found[name]}", file=sys.stderr, flush=True)
        asked.out.write_text(json.dumps(found, indent=2))
        return result

    part("machine", 0.1, lambda _: gpu_measures.machine(device))
    small = part("small catalogue", 0.2, lambda _: Stream.of(asked.data, asked.small, batches))
    part("softmax", 0.1, lambda _: gpu_measures.softmax(device, found.get("machine", {})))
    if small:
        part("steps", 0.35, lambda s: gpu_measures.steps(small, batches, device, s, most))
        part("parity", 0.35, lambda _: gpu_measures.parity(small, asked.events, device))
        part("search", 0.2, lambda _: gpu_measures.search(small, asked.queries, device))
    large = part("large catalogue", 0.6, lambda _: Stream.of(None, asked.items, batches))
    if large:
        part("steps, large", 0.9, lambda s: gpu_measures.steps(large, batches, device, s, most))
    found["took_s"] = round(time.perf_counter() - began, 1)
    asked.out.write_text(json.dumps(found, indent=2))
    return found


@contextlib.contextmanager
def at_most(seconds: float) -> Any:
    """Raise `TimeoutError` in what takes longer."""

    def late(*_: object) -> None:
        raise TimeoutError(f"not done within {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def table(found: dict[str, Any]) -> str:
    """All figures, a line each."""
    lines = []
    for name, figures in found.items():
        if not isinstance(figures, dict):
            lines.append(f"{name:<18} {figures}")
            continue
        for key, value in figures.items():
            if isinstance(value, dict):
                told = "  ".join(f"{k} {_short(v)}" for k, v in value.items())
            else:
                told = _short(value)
            lines.append(f"{name:<18} {key:<22} {told}")
    return "\n".join(lines)


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} {_short(v)}" for k, v in value.items()) + "}"
    return f"{value:,.4g}" if isinstance(value, float) and abs(value) < 1000 else f"{value}"


def main(arguments: list[str] | None = None) -> None:
    print(table(measured(options(arguments))), flush=True)


if __name__ == "__main__":
    main()
