"""The parts of `tests.benchmarks.gpu`.

Host times are of the one thread that learns, by the clock; a stage's leaves out those within it.
On a GPU launching is asynchronous, so "forward" and "backward" there are the time to launch them,
and "numbers" the wait for the device at the end of a step.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from indexer.lists.code_lists import CodeLists
from indexer.lists.device_rows import DeviceRows
from indexer.search.config import SearchConfig
from indexer.search.soft_search import SoftSearch
from model.evaluation import protocol
from model.evaluation.user_sequences import SequencesOfUsers
from model.histories import History
from model.learning import learner as learning
from model.learning.config import LearnerConfig
from model.learning.learner import Learner
from model.network.candidate_layout import Layout
from model.network.tiled_softmax import lay_out, tiled_softmax
from streaming.events import UserSequence
from streaming.items import Item
from tests.benchmarks.made_catalogue import CatalogueSize, make
from tests.model.launch_count import launches

ROUNDS = 20
WARM_STEPS = 2
BEST = 50
"""Places of an answer."""
BATCH = 64
"""Queries that the service searches together at most."""
KINDS = {
    "products": ("gemm", "cutlass", "nvjet", "xmma", "cublas"),
    "transfers": ("memcpy", "memset"),
    "sorting": ("sort", "scan", "cub::", "topk"),
    "gathering": ("index", "gather", "scatter", "embedding"),
    "reducing": ("reduce", "softmax", "norm"),
}
"""Of kernels, by parts of their names; the others are element by element."""


@dataclasses.dataclass
class Stream:
    """A catalogue and its log."""

    items: list[Item]
    sequences: list[UserSequence]

    @classmethod
    def of(cls, directory: Path | None, items: int, batches: list[int]) -> Stream:
        """Of files, or as many made items with events enough for the batches."""
        if directory is not None:
            events = protocol.read_events(directory / "events.csv")
            listed = protocol.read_items(directory / "items.csv")
            return cls(listed, list(SequencesOfUsers().take(events)))
        events_made = max(40_000, 4 * sum(batches)) if items > 5000 else 3000
        made = make(CatalogueSize(items=items, events=events_made, users=events_made // 8))
        return cls(list(made.items()), list(made.sequences()))


def timed(work: Callable[[], object], device: torch.device, rounds: int = ROUNDS) -> float:
    """Seconds of one round."""
    work()
    synchronise(device)
    began = time.perf_counter()
    for _ in range(rounds):
        work()
    synchronise(device)
    return (time.perf_counter() - began) / rounds


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def machine(device: torch.device) -> dict[str, Any]:
    """What it is and does: TFLOP/s of dense products, GB/s of copies (read and written)."""
    cuda = device.type == "cuda"
    side = 8192 if cuda else 512
    found: dict[str, Any] = {"torch": torch.__version__, "cpus": os.cpu_count()}
    if cuda:
        known = torch.cuda.get_device_properties(device)
        found |= {"gpu": known.name, "gpu_gib": round(known.total_memory / 2**30, 1)}
    for name, kind in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        x = torch.randn(side, side, device=device, dtype=kind)
        took = timed(lambda x=x: x @ x, device, 5)
        found[f"{name}_tflops"] = round(2 * side**3 / took / 1e12, 3)
    x = torch.zeros(2**28 if cuda else 2**22, device=device)
    took = timed(lambda: x.clone(), device, 5)
    return found | {"copy_gbs": round(8 * len(x) / took / 1e9, 1)}


def softmax(device: torch.device, of_machine: dict[str, Any]) -> dict[str, Any]:
    """The softmax over candidates with its gradients, alone: 64 codes, two members."""
    cuda = device.type == "cuda"
    S, B, G = (17_000, 4096, 128) if cuda else (1700, 128, 4)
    C, M, D, P, K, L = 64, 2, 64, 4, 64, 20
    random = torch.Generator(device).manual_seed(0)

    def normal(*sizes: int) -> torch.Tensor:
        made = torch.randn(sizes, generator=random, device=device) * 0.1
        return made.requires_grad_(True)

    def places(*sizes: int) -> torch.Tensor:
        return torch.randint(S, sizes, generator=random, device=device)

    code_S = torch.randint(C, (S,), generator=random, device=device)
    ends = torch.linspace(0, B, G + 1).long().tolist()
    layout = Layout(
        sizes_C=torch.zeros_like(code_S[:C]).scatter_add_(0, code_S, torch.ones_like(code_S)),
        clocks=list(zip(ends, ends[1:], strict=False)),
        features_GSP=normal(G, S, P).detach(),
        log_q_S=normal(S).detach(),
        near_BK=places(B, K),
        excluded_BL=places(B, L),
        target_B=places(B),
        parts=[torch.arange(B, device=device)],
        picked_BX=torch.randint(C, (B, 2), generator=random, device=device),
    )
    inputs = normal(M, B, C, D), normal(M, S, D), normal(M, B, P), normal(M, B, K)
    tiles = lay_out(layout, D)
    found: dict[str, Any] = {"examples": B, "candidates": S}
    for name, kind in (("bf16", torch.bfloat16), ("fp32", torch.float32)):

        def work(mixed: bool = name == "bf16") -> None:
            with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
                loss, _, picked = tiled_softmax(*inputs, tiles)
            (loss + picked.sum()).backward()

        if cuda:
            torch.cuda.reset_peak_memory_stats(device)
        took = timed(work, device, 10 if cuda else 2)
        flops = 3 * 2 * M * B * S * D / took / 1e12
        best = of_machine.get(f"{name}_tflops")
        found[name] = {
            "ms": round(1000 * took, 3),
            "tflops": round(flops, 3),
            "share_of_dense": round(flops / best, 4) if best else None,
            "peak_gib": round(torch.cuda.max_memory_allocated(device) / 2**30, 2) if cuda else None,
            "dtype": str(kind),
        }
    return found


class Stages:
    """The host's time by stage, each without those within it."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._within: list[float] = []

    def wrapped(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def stage(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            self._within.append(0.0)
            try:
                return function(*arguments, **named)
            finally:
                took = time.perf_counter() - began
                self.seconds[name] += took - self._within.pop()
                if self._within:
                    self._within[-1] += took

        return stage

    @contextmanager
    def of(self, learner: Learner) -> Iterator[None]:
        """Watch a learner."""
        tables, network = learner._tables, learner._sparc
        watched = [
            (learning, "pad_histories", "histories"),
            (learning, "make_batch", "batch"),
            (learning, "check_losses", "numbers"),
            (learner, "_examples", "histories"),
            (learner, "_step", "rest of the step"),
            (tables.neighbours, "look_up", "neighbours: look up"),
            (tables.neighbours, "add", "neighbours: add"),
            (tables.popularity, "add", "popularity: add"),
            (tables.code_popularity, "add", "popularity: add"),
            (tables.popularity, "before", "popularity: of their time"),
            (tables.code_popularity, "before", "popularity: of their time"),
            (tables, "inputs_to_learn", "items' rows and titles"),
            (learner._replay, "sample", "replay: draw"),
            (learner._replay, "add", "replay: add"),
            (network, "forward", "forward"),
            (torch.Tensor, "backward", "backward"),
            (learner._optimizer, "step", "optimizer"),
            (network.quantizer, "update", "codebook"),
            *((table, "step", "tables") for table in tables.learnt_rows),
        ]
        patches = [
            patch.object(owner, name, self.wrapped(stage, getattr(owner, name)))
            for owner, name, stage in watched
        ]
        for one in patches:
            one.start()
        try:
            yield
        finally:
            for one in patches:
                one.stop()


def steps(
    stream: Stream, batches: list[int], device: torch.device, seconds: float, most: int
) -> dict[str, Any]:
    """Micro-batches of each size, each one step: `most` if their share of the time lasts."""
    found: dict[str, Any] = {"items": len(stream.items), "history": _mean_history(stream)}
    until = time.perf_counter() + seconds
    for number, size in enumerate(batches):
        config = dataclasses.replace(LearnerConfig(), step=2 * size)
        learner, at = Learner(config, str(device)), 0
        learner.list_items(stream.items)
        mine = (until - time.perf_counter()) / (len(batches) - number)
        began, stages, lasted = time.perf_counter(), Stages(), list[float]()

        def step(learner: Learner = learner, size: int = size) -> None:
            nonlocal at
            learner.learn([stream.sequences[(at + e) % len(stream.sequences)] for e in range(size)])
            at += size

        for _ in range(WARM_STEPS):
            step()
        synchronise(device)
        with stages.of(learner):
            while not lasted or (time.perf_counter() - began < 0.7 * mine and len(lasted) < most):
                since = time.perf_counter()
                step()
                synchronise(device)
                lasted.append(time.perf_counter() - since)
        taken = float(np.median(lasted))
        found[f"batch {size}"] = {
            "steps": len(lasted),
            "ms": round(1000 * taken, 2),
            "events_s": round(size / taken),
            "host_ms": {
                name: round(1000 * spent / len(lasted), 2)
                for name, spent in sorted(stages.seconds.items(), key=lambda one: -one[1])
            },
            "device": on_device(step, device),
        }
        del learner
    return found


def _mean_history(stream: Stream) -> float:
    return round(float(np.mean([len(s.history_items) for s in stream.sequences])), 2)


def on_device(step: Callable[[], None], device: torch.device) -> dict[str, Any]:
    """What one step launches, and on a GPU how long its kernels take, by kind."""
    if device.type != "cuda":
        return {"launches": sum(sum(names.values()) for names in launches(step).values())}
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        step()
        synchronise(device)
    spent, count = Counter[str](), 0
    for event in profiler.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            name, count = event.name.lower(), count + 1
            kinds = (kind for kind, parts in KINDS.items() if any(p in name for p in parts))
            spent[next(kinds, "element by element")] += event.time_range.elapsed_us()
    told = {kind: round(us / 1000, 3) for kind, us in spent.most_common()}
    return {"launches": count, "busy_ms": round(sum(spent.values()) / 1000, 3), "ms": told}


def parity(stream: Stream, events: int, device: torch.device) -> dict[str, Any]:
    """Recall@50 of the last half of the events, each asked before it is learnt, on both."""
    hits = {name: hits_of(stream, events, name) for name in ("cpu", str(device))}
    found: dict[str, Any] = {f"recall_{n}": round(float(x.mean()), 5) for n, x in hits.items()}
    cpu_R, other_R = hits["cpu"].astype(float), hits[str(device)].astype(float)
    apart_R = other_R - cpu_R
    error = float(apart_R.std() / np.sqrt(len(apart_R)))
    return found | {
        "asked": len(cpu_R),
        "relative_difference": round(float(apart_R.mean() / max(cpu_R.mean(), 1e-9)), 4),
        "its_standard_error": round(error / max(float(cpu_R.mean()), 1e-9), 4),
    }


def hits_of(stream: Stream, events: int, device: str, size: int = 256) -> np.ndarray:
    """Which targets were among the answers, of those with a history."""
    learner = Learner(LearnerConfig(), device)
    learner.list_items(stream.items)
    hits: list[np.ndarray] = []
    for a in range(0, min(events, len(stream.sequences)), size):
        part = stream.sequences[a : a + size]
        asked = [s for s in part if s.history_items]
        if a >= events // 2 and asked:
            if not hits or (a // size) % 8 == 0:  # published every eight micro-batches
                now = part[0].event_time
                answering = soft_search(learner.retrieval_model(now))
            histories = [History(s.history_items, s.history_times) for s in asked]
            times = np.array([s.event_time for s in asked])
            found_BK = answering.search(histories, times, BEST).items_BK
            hits.append((found_BK == np.array([[s.target] for s in asked])).any(1))
        learner.learn(part)
    return np.concatenate(hits)


def soft_search(model: Any, rows: DeviceRows | None = None) -> SoftSearch:
    (base,) = model.items.segments
    lists = CodeLists.build(base.ids_n, base.codes_nQ, base.z_nD, model.first_level_codes)
    return SoftSearch(model, lists, SearchConfig(), device=rows)


def search(stream: Stream, queries: int, device: torch.device) -> dict[str, Any]:
    """Queries a second, over lists where they are and over lists on the device, as the service
    searches them: one after the other, and so many together. The model is on the CPU, as there.
    """
    learner = Learner(LearnerConfig(), str(device))
    learner.list_items(stream.items)
    for a in range(0, min(4096, len(stream.sequences)), 512):
        learner.learn(stream.sequences[a : a + 512])
    asked = [s for s in stream.sequences if s.history_items][-queries:]
    histories = [History(s.history_items, s.history_times) for s in asked]
    times = np.array([s.event_time for s in asked])
    model, rows = learner.retrieval_model(), DeviceRows(str(device), 4 << 30)
    found: dict[str, Any] = {}
    answers = {}
    for name in ("cpu", "device"):
        searching = soft_search(model, rows if name == "device" else None)
        told = found[f"lists on {name}"] = {}
        for together in (1, BATCH):
            most = min(len(asked), 200 * together)
            searching.search(histories[:together], times[:together], BEST)
            began = time.perf_counter()
            for a in range(0, most, together):
                some = slice(a, a + together)
                searching.search(histories[some], times[some], BEST)
            told[f"{together} together, queries_s"] = round(most / (time.perf_counter() - began))
        answers[name] = searching.search(histories, times, BEST)
    of_batch = launches(lambda: searching.search(histories[:BATCH], times[:BATCH], BEST))
    same_BK = answers["device"].items_BK == answers["cpu"].items_BK
    found["on the device"] = {
        "mib": round(rows.nbytes / 2**20, 1),
        "launches": sum(sum(names.values()) for names in of_batch.values()),
        "refused": rows.refused,
        "answered_alike": round(float(same_BK.mean()), 5),
    }
    return found
