"""The pipeline's trainer, indexer and reader, each a process of its own that does as it is told.

A part is asked over a pipe and answers when it has done. What it runs is the product: `Trainer`
with its journal, checkpoints and handovers on disk, `Indexer` on its store, `SnapshotFollower` as
the service has it. Only Kafka is not there: files stand for its topics.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch

from tests.benchmarks.growing_source import GrowingSource, Lines, LogFiles, Part
from tests.benchmarks.process_costs import Ledger, NewFiles, Timed, pss_mib

Report = dict[str, Any]
LISTED_AT_ONCE = 5_000
"""As many records of `items` as the indexer reads at once."""


class PartEnded(RuntimeError):
    """A part died; what it said is on the terminal."""


class PartProcess:
    """A part in a process of its own, which may fork others."""

    def __init__(self, main: Callable[..., None], *arguments: Any, forks: bool = False) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_begin, args=(main, theirs, *arguments), name=main.__name__, daemon=not forks
        )
        self._process.start()
        theirs.close()

    @cached_property
    def started(self) -> Report:
        """What the start has cost, once it is done; several parts may start beside each other."""
        empty = self._answer()
        return self._answer() | empty

    @property
    def pid(self) -> int:
        pid = self._process.pid
        assert pid is not None
        return pid

    def ask(self, *request: Any) -> Report:
        """Have something done; what it cost."""
        assert self.started
        self._connection.send(request)
        return self._answer()

    def _answer(self) -> Report:
        try:
            answer: Report = self._connection.recv()
        except EOFError as error:
            self._process.join()
            raise PartEnded(f"{self._process.name} ended ({self._process.exitcode})") from error
        return answer

    def end(self) -> None:
        self._connection.send(("end",))
        self._process.join(60)
        self._process.kill()
        self._connection.close()


def _begin(main: Callable[..., None], connection: Connection, *arguments: Any) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    connection.send({"empty_mib": pss_mib(os.getpid())})
    main(connection, *arguments)


# -- the trainer -----------------------------------------------------------------------------


def trainer(connection: Connection, data_dir: Path, files: LogFiles, events: int) -> None:
    """Trains what it is told to; publishes after every `events`.

    ("train", part) answers once all of the part is learnt and published.
    """
    from indexer.search.config import SearchConfig
    from indexer.search.soft_search import ServedPath
    from model.learning.config import LearnerConfig
    from model.learning.learner import Learner
    from model.retrieval.retrieval_model import RetrievalModel
    from model.training.checkpoint import CheckpointDirectory
    from model.training.config import TrainerConfig
    from model.training.handover import HandoverDirectory
    from model.training.journal import Publication, RocksJournal
    from model.training.publish_schedule import PublishConfig
    from model.training.trainer import Trainer

    ledger, publications = Ledger(), _Publications()
    config = TrainerConfig(
        publish=PublishConfig(events=events, seconds=1e9, idle_seconds=1e9, drift=1e9),
        catch_up_from=0,
        linger_seconds=0.2,
    )
    checkpoints = NewFiles(data_dir / "trainer" / "checkpoints")
    handovers = NewFiles(data_dir / "handover")

    def journaled(method: str, *arguments: Any) -> None:
        if method == "append" and isinstance(arguments[1], Publication):
            checkpoints.take()  # one that time alone has brought is no part of a publication
            publications.begin()
        elif method == "prune":
            publications.end()

    def more() -> Part | None:
        connection.send(
            {
                "cpu_s": ledger.take(),
                "publication_cpu_s": publications.cpu_s,
                "checkpoint_files": checkpoints.take(),
                "handover_files": handovers.take(),
            }
        )
        what, *part = connection.recv()
        publications.done = False
        return part[0] if what == "train" else None

    source = GrowingSource(files, lambda: publications.done, more)
    journal = RocksJournal(data_dir / "trainer" / "journal")
    try:
        Trainer(
            lambda _: Timed(Learner(LearnerConfig()), "learner", ledger),
            Timed(source, "source", ledger),
            Timed(journal, "journal", ledger, journaled),
            Timed(
                CheckpointDirectory(data_dir / "trainer" / "checkpoints", config.keep_checkpoints),
                "checkpoints",
                ledger,
            ),
            Timed(
                HandoverDirectory(
                    data_dir / "handover",
                    config.keep_handovers,
                    RetrievalModel.load,
                ),
                "handovers",
                ledger,
            ),
            lambda model: _TimedPath(ServedPath(SearchConfig(), model), "answerer", ledger),
            config,
        ).run(threading.Event(), lambda _: None)
    finally:
        journal.close()


class _TimedPath(Timed):
    """The paths that follow are timed, too."""

    def followed_by(self, model: Any) -> _TimedPath:
        return _TimedPath(self.__getattr__("followed_by")(model), "answerer", self._ledger)


class _Publications:
    """How much of the processor a publication took, from its decision to the end."""

    def __init__(self) -> None:
        self.done = True  # with nothing so far
        self.cpu_s = 0.0
        self._began: float | None = None

    def begin(self) -> None:
        self._began = time.process_time()

    def end(self) -> None:
        if self._began is not None:
            self.cpu_s = round(time.process_time() - self._began, 4)
            self._began, self.done = None, True


# -- the indexer -----------------------------------------------------------------------------


def indexer(connection: Connection, data_dir: Path, files: LogFiles) -> None:
    """Lists and indexes what it is told to.

    ("list", items) reads on to so many items; ("index",) makes a version of the next handover.
    """
    from indexer.indexing.config import IndexerConfig
    from indexer.indexing.indexer import Indexer
    from indexer.indexing.item_store import ItemStore
    from indexer.indexing.listing import Announced

    store = ItemStore(data_dir / "indexer" / "rocksdb")
    indexing = Indexer(IndexerConfig(), store, data_dir, lambda: time.time_ns() // 1_000_000)
    indexing.recover()
    lines, snapshots = Lines(files.items), NewFiles(data_dir / "snapshots")
    connection.send({})
    while (request := connection.recv())[0] != "end":
        ledger = Ledger()
        timed = Timed(indexing, "indexer", ledger)
        report: Report = {}
        if request[0] == "list":
            while some := lines.take(request[1], LISTED_AT_ONCE):
                start = lines.read - len(some)
                timed.listen(
                    [Announced(0, start + n, value) for n, value in enumerate(some)],
                    {0: lines.read},
                )
            timed.append_waiting()
        else:
            number = indexing.handovers.next()
            assert number is not None, "there is no handover"
            prepared = timed.prepare(number)
            assert prepared is not None, indexing.handovers.last_refusal
            timed.publish(prepared)
            status = indexing.status()
            report = {
                "rebuilt": status.rebuilt_codes,
                "shared": status.shared_codes,
                "reasons": status.rebuild_reasons,
                "snapshot_files": snapshots.take(),
            }
        connection.send(report | {"cpu_s": ledger.take()})
    store.close()


# -- the reader ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """Queries with known answers: histories, times and targets."""

    histories: list[tuple[list[int], list[int]]]
    now_ms_B: list[int]
    targets_B: list[int]
    k: int = 50


def reader(connection: Connection, data_dir: Path) -> None:
    """Follows what is served, as a worker of the service does.

    ("poll",) loads what is new; ("ask", asked) answers and says how well and how quickly.
    """
    from deploy.service.snapshot_follower import SnapshotFollower
    from indexer.search.config import SearchConfig

    follower = SnapshotFollower(data_dir, SearchConfig())

    def poll() -> Report:
        began, worked = time.perf_counter(), time.process_time()
        follower.poll()
        assert follower.retriever is not None, follower.last_error
        return {
            "version": follower.retriever.version,
            "load_s": round(time.perf_counter() - began, 4),
            "load_cpu_s": round(time.process_time() - worked, 4),
        }

    connection.send(poll() | {"start_cpu_s": round(time.process_time(), 3)})
    while (request := connection.recv())[0] != "end":
        connection.send(poll() if request[0] == "poll" else _ask(follower, *request[1:]))
    os._exit(0)  # nothing is to be saved, and a million items take a while to be let go


def service(connection: Connection, data_dir: Path, workers: int) -> None:
    """Readers, forked as `deploy.service.worker_group` forks the workers of a service.

    ("poll", n) is passed on to the reader of that number, from 1 on. The start says their `pids`.
    """
    import deploy.commands.parts  # noqa: F401 - as `sparc serve` has
    import deploy.dashboard.routes  # noqa: F401
    from deploy.service.worker_group import share_what_is_imported

    share_what_is_imported()
    forked = multiprocessing.get_context("fork")
    readers, pids = [], []
    for _ in range(workers):
        ours, theirs = forked.Pipe()
        process = forked.Process(target=reader, args=(theirs, data_dir), daemon=True)
        process.start()
        readers.append(ours)
        pids.append(process.pid)
    connection.send(readers[0].recv() | {"pids": pids})
    for one in readers[1:]:
        one.recv()
    while (request := connection.recv())[0] != "end":
        asked = readers[request[1] - 1]
        asked.send(request[:1])
        connection.send(asked.recv())
    for one in readers:
        one.send(("end",))


def _ask(follower: Any, asked: Asked, exhaustive: int) -> Report:
    from indexer.search.soft_search import SoftSearch
    from model.histories import History

    snapshot = follower.retriever.snapshot
    search = SoftSearch(snapshot.model, snapshot.lists, follower.search)
    histories = [History(*one) for one in asked.histories]
    now_ms_B = np.array(asked.now_ms_B)
    found, seconds, scored = [], [], []
    for b in range(len(histories)):
        one = slice(b, b + 1)
        began, worked = time.perf_counter(), time.thread_time()
        answers = search.search(histories[one], now_ms_B[one], asked.k)
        seconds.append((time.perf_counter() - began, time.thread_time() - worked))
        found.append(answers.items_BK[0].tolist())
        scored.append(int(answers.scored_B[0]))
    wall, cpu = np.quantile(np.array(seconds[len(seconds) // 10 :]), [0.5, 0.99], axis=0).T * 1000
    best = []
    for b in range(min(exhaustive, len(histories))):
        (every,) = search.candidates(histories[b : b + 1], now_ms_B[b : b + 1])
        scores = every.scores_BN[0]
        top = np.argpartition(-scores, min(asked.k, len(scores) - 1))[: asked.k]
        best.append(every.items_BN[0][top].tolist())
    return {
        "queries": len(histories),
        "p50_ms": round(float(wall[0]), 3),
        "p99_ms": round(float(wall[1]), 3),
        "cpu_p50_ms": round(float(cpu[0]), 3),
        "cpu_p99_ms": round(float(cpu[1]), 3),
        "share_scored": round(float(np.mean(scored)) / len(snapshot.lists), 5),
        "recall_at_50": _recall(found, asked.targets_B),
        "recall_at_50_of_those": _recall(found[: len(best)], asked.targets_B),
        "exhaustive_recall_at_50": _recall(best, asked.targets_B),
        "of_the_exhaustive_answers": round(
            float(np.mean([len({*f} & {*e}) / len(e) for f, e in zip(found, best, strict=False)])),
            4,
        ),
        "exhaustive_queries": len(best),
    }


def _recall(found_BK: Sequence[Sequence[int]], targets_B: Sequence[int]) -> float:
    hits = [target in found for found, target in zip(found_BK, targets_B, strict=False)]
    return round(float(np.mean(hits)), 4)
