"""The leave-one-out protocol for SPARC and the peers, comparable with published tables.

    DIR/leave_one_out.json   metrics on the test items, validation by epoch, settings, machine, time

SPARC's first epoch is one pass as in production; each further one rehearses as many examples as
there are. The ranking is over all items; what soft search alone would have answered stands beside
it. The log has no times: an event before another is a day older (see the protocol's module), so
recency means the order of a user's own events and little more.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from deploy.settings import Settings
from deploy.studies import machine_facts
from deploy.studies.runs import SPARC, sparc_config
from indexer.evaluation.published_versions import Handover, Publisher, Served
from indexer.indexing.config import IndexerConfig
from indexer.search.soft_search import SearchConfig
from model.evaluation import leave_one_out as protocol
from model.evaluation.leave_one_out import Sequences
from model.evaluation.prequential_run import WARM_UP_STEP, OnlineSparcConfig
from model.evaluation.protocol import LIST_LENGTH, Events, Queries, read_items
from model.evaluation.runner import Answers
from model.evaluation.user_sequences import SequencesOfUsers
from model.learning.learner import Learner
from model.peers.factory import build
from model.retrieval.retrieval_model import RetrievalModel
from streaming.events import Item

REPORT = "leave_one_out.json"


class SparcByEpochs:
    """SPARC as `protocol.TrainedByEpochs`; a deep copy answers, and can no longer be trained."""

    def __init__(
        self,
        items: Sequence[Item],
        config: OnlineSparcConfig,
        indexer: IndexerConfig,
        search: SearchConfig,
        device: str = "cpu",
    ) -> None:
        self._items = list(items)
        self._config = config
        self._device = device
        self._publisher = Publisher(items, indexer, search)
        self._events: Events | None = None
        self._learner: Learner | None = None
        self._served: Served | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> SparcByEpochs:
        self.served()
        copied = copy.copy(self)  # a version never changes, so it may be shared
        copied._learner = None
        return copied

    def observe(self, events: Events) -> None:
        """Take the events to be trained on; all of them fit into the replay buffer."""
        self._events = events
        room = max(self._config.learner.replay_capacity, len(events))
        config = dataclasses.replace(self._config.learner, replay_capacity=room)
        self._learner = Learner(config, self._device)
        self._learner.list_items(self._items)

    def epoch(self) -> float:
        """One pass in micro-batches the first time, then as many rehearsed examples."""
        learner, events = self._learner, self._events
        if learner is None or events is None:
            raise RuntimeError("a copy of a trained model answers; train the original")
        first = learner.replayed == 0
        size = WARM_UP_STEP
        losses = []
        if first:
            sequences = list(SequencesOfUsers().take(events))
            for a in range(0, len(sequences), size):
                losses.append(learner.learn(sequences[a : a + size], replay=0)["loss"])
        else:
            step = min(size, len(events))
            for _ in range(-(-len(events) // step)):
                losses.append(learner.rehearse(step)["loss"])
        self._served = None
        return float(np.mean(losses))

    def served(self) -> Served:
        """The newest version, with its index."""
        if self._served is None:
            if self._learner is None:
                raise RuntimeError("there is nothing to answer from: observe events first")
            tensors, facts = self._learner.export()
            model = RetrievalModel(tensors, facts, self._device)
            self._served = self._publisher.once(Handover(tensors, facts, model))
        return self._served

    def answer(self, queries: Queries) -> Answers:
        """The best of all items: every code is searched."""
        return self._answer(queries, self.served().handover.model.first_level_codes)

    def soft_search(self) -> _SoftSearch:
        """The same model, searching the configured number of codes."""
        return _SoftSearch(self)

    def _answer(self, queries: Queries, codes: int | None) -> Answers:
        now_ms = np.full(len(queries), queries.now_ms, dtype=np.int64)
        found = self.served().search.search(queries.histories, now_ms, LIST_LENGTH, codes)
        return Answers(found.items_BK, found.scores_BK)

    def facts(self) -> dict[str, Any]:
        """Settings of the learner."""
        return dataclasses.asdict(self._config)


@dataclass(frozen=True)
class _SoftSearch:
    """The best items of the codes that are searched."""

    model: SparcByEpochs

    def answer(self, queries: Queries) -> Answers:
        return self.model._answer(queries, None)


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
    evaluation = settings.evaluation_config()
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
        evaluation = settings.evaluation_config()
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
    return report if report.get("run") == plan else None
