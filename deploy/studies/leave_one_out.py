"""The leave-one-out protocol for SPARC and the peers, comparable with published tables.

    DIR/leave_one_out.json   metrics on the test items, validation by epoch, settings, machine, time

The log has no times: an event before another is a day older (see the protocol's module), so
recency means the order of a user's own events and little more.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import orjson

from deploy.settings import Settings
from deploy.studies import machine_facts
from deploy.studies.runs import SPARC, recorded_plan, sparc_config
from indexer.evaluation.sparc_by_epochs import SparcByEpochs
from model.evaluation import leave_one_out as protocol
from model.evaluation.leave_one_out import Sequences
from model.evaluation.protocol import read_items
from model.peers.factory import build

REPORT = "leave_one_out.json"


def read(interactions: Path, items: Path | None) -> Sequences:
    """Sequences, with features where a catalogue of the same ids is given.

    Raises:
        ProtocolError: names the file, the line and what is wrong.
        OSError: a file cannot be read.
    """
    data = protocol.read_sequences(interactions)
    return data if items is None else protocol.with_features(data, read_items(items))


def planned(
    name: str, interactions: Path, items: Path | None, settings: Settings, seed: int
) -> dict[str, Any]:
    """What decides the outcome, as plain JSON values."""
    files = {"interactions": machine_facts.file_facts(interactions)}
    if items is not None:
        files["items"] = machine_facts.file_facts(items)
    evaluation = settings.evaluation
    plan: dict[str, Any] = {
        "protocol": "leave-one-out",
        "name": name,
        "seed": seed,
        "data": files,
        "epochs": evaluation.epochs,
        "patience": evaluation.patience,
    }
    if name == SPARC:
        plan |= {
            "learner": dataclasses.asdict(sparc_config(settings, seed).learner),
            "batch_size": settings.trainer_config().batch_size,
            "threads": settings.trainer_config().threads,
            "search": dataclasses.asdict(settings.search),
        }
    plain: dict[str, Any] = orjson.loads(orjson.dumps(plan))
    return plain


def play(
    name: str,
    interactions: Path,
    items: Path | None,
    settings: Settings,
    out: Path,
    *,
    seed: int = 0,
    device: str = "cpu",
    again: bool = False,
) -> tuple[dict[str, Any], bool]:
    """Train and test a model, unless that was done with the same settings.

    Returns:
        The report, and whether the model was trained now.

    Raises:
        ProtocolError: the files cannot be used.
        OSError: the directory cannot be written.
    """
    plan = planned(name, interactions, items, settings, seed)
    if not again and (there := _finished(out, plan)):
        return there, False
    started, worked = time.perf_counter(), time.process_time()
    data = read(interactions, items)
    with machine_facts.computing(settings.trainer_config().threads):
        facts = {"machine": machine_facts.machine(device), "versions": machine_facts.versions()}
        evaluation = settings.evaluation
        limits = {"most_epochs": evaluation.epochs, "patience": evaluation.patience}
        report: dict[str, Any] = {"name": name, "seed": seed, "run": plan, **facts}
        if name == SPARC:
            model = SparcByEpochs(
                data.items, sparc_config(settings, seed), settings.indexer, settings.search, device
            )
            best, curve = protocol.fit(model, data, **limits)
            report["test"] = protocol.evaluate(best, data, "test")
            if not isinstance(best, SparcByEpochs):
                raise TypeError(f"the best epoch is a {type(best).__name__}")
            report["soft_search"] = protocol.evaluate(best.soft_search(), data, "test")
        else:
            peer = build(name, data.items, seed, device)
            _, report["test"], curve = protocol.train_and_test(peer, data, **limits)
            report["model"] = peer.facts()
    report |= {
        "users": len(data.items_of),
        "items": len(data.items),
        "validation_by_epoch": curve,
        "peak_memory_gib": machine_facts.peak_memory_gib(),
        "cpu_seconds": round(time.process_time() - worked, 3),
        "wall_seconds": round(time.perf_counter() - started, 3),
    }
    out.mkdir(parents=True, exist_ok=True)
    text = orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY)
    (out / REPORT).write_bytes(text + b"\n")
    return report, True


def _finished(directory: Path, plan: dict[str, Any]) -> dict[str, Any] | None:
    try:
        report: dict[str, Any] = orjson.loads((directory / REPORT).read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None
    return report if recorded_plan(report) == plan else None
