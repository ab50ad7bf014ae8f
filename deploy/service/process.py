"""The retrieval service as a process: histories from Kafka, snapshots from disk, answers over HTTP.

It answers `/health` at once, and queries as soon as a snapshot is loaded (one of several workers
loads what there is before it listens): nothing waits for Kafka or the registry, and both may go
away while it serves. All that it needs is imported with this module, so that processes forked from
one that has imported it share that memory.
"""

from __future__ import annotations

import contextlib
import gc
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import structlog
import torch
import uvicorn
from fastapi import FastAPI

from deploy.http.bounded_protocol import bounded_protocol
from deploy.http.connections import Limits, most_connections, raise_descriptors
from deploy.ingest.forgotten_users import ForgottenUsers
from deploy.ingest.item_changes import ItemChanges, TopicEnd
from deploy.ingest.kafka_writer import KafkaWriter
from deploy.ingest.routes import router
from deploy.monitoring import moment
from deploy.monitoring.part_status import is_alive, read_status
from deploy.release.judge import Judge, RecentEvents
from deploy.service.answer_log import AnswerLog
from deploy.service.app import create_app
from deploy.service.config import ServiceError, Worker
from deploy.service.health import status_of
from deploy.service.popularity_baseline import PopularityBaseline
from deploy.service.retrieval import RetrievalService
from deploy.service.search_device import search_device
from deploy.service.sequence_follower import SequenceFollower
from deploy.service.snapshot_follower import SnapshotFollower
from deploy.service.user_histories import UserHistories
from deploy.service.workers import Forwarding, note
from streaming.events import UserSequence
from streaming.statuses import ReplayStatus, Report
from streaming.topic_identity import TopicIdentity

log = structlog.get_logger(__name__)


SWITCH_SECONDS = 0.0005
LATE_DAYS = 3

Extension = Callable[[FastAPI, RetrievalService], Callable[[threading.Event], None]]
"""Adds routes to the service; what it returns runs in a thread of its own until it is stopped."""


def run(
    worker: Worker, stop: threading.Event, report: Report, extension: Extension | None = None
) -> None:
    """Serve until `stop` is set.

    Args:
        worker: what is served, and where.
        stop: ends the run.
        report: takes the status of the first worker, about once a second.
        extension: what the first worker shows besides.

    Raises:
        ServiceError: if the port is taken, or there is no such worker.
        HistoryStoreError: if another service uses the data directory.
    """
    config = worker.config
    if not 1 <= worker.number <= config.workers:
        raise ServiceError(
            f"worker {worker.number} of a service that has {config.workers}: raise service.workers"
        )
    with contextlib.ExitStack() as open_listeners:
        together = config.workers > 1
        listeners = [listen(config.host, worker.port, shared=together)]
        open_listeners.callback(listeners[0].close)
        if together:
            listeners.append(listen("127.0.0.1", 0))
            open_listeners.callback(listeners[1].close)
        _serve(worker, listeners, stop, report, extension)


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A socket on an address, which does not listen yet; `shared`: others may be on it, too.

    Raises:
        ServiceError: if the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio sends answers at once (TCP_NODELAY): 40 ms less.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:  # the kernel deals connections out to those that listen
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ServiceError(
            f"retrieval service: cannot listen on {host}:{port} ({error.strerror}); stop what uses "
            "the port, or configure another one"
        ) from error
    return listener


def _serve(
    worker: Worker,
    listeners: list[socket.socket],
    stop: threading.Event,
    report: Report,
    extension: Extension | None,
) -> None:
    config = worker.config
    connections = most_connections(config.limits.connections, raise_descriptors())
    torch.set_num_threads(1)  # a query is small: further queries use further cores
    # Else the thread that speaks HTTP waits 5 ms whenever another one computes.
    sys.setswitchinterval(SWITCH_SECONDS)
    service = _service(worker)
    own_port = listeners[-1].getsockname()[1]
    writer = _writer(worker)
    app = _app(worker, service, own_port, writer)
    server = _server(app, replace(config.limits, connections=connections))
    if config.workers > 1:
        service.arms.poll()  # the kernel would deal out to us what the others can answer
    # What was imported stays; to look through it again and again costs tens of milliseconds.
    gc.collect()
    gc.freeze()
    # In a thread, because in the main one uvicorn would take the signals for itself.
    work: list[tuple[str, Callable[..., object], tuple[Any, ...]]] = [
        ("http", server.run, (listeners,)),
        ("snapshots", service.arms.run, (stop, config.poll_seconds)),
        ("sequences", service.sequences.run, (stop,)),
        ("popularity", service.popularity.run, (stop,)),
    ]
    if writer is not None:
        work.append(("ingestion", writer.run, (stop,)))
    if service.answers is not None:
        work.append(("answers", service.answers.run, (stop,)))
    if extension is not None and worker.first:
        work.append(("extension", extension(app, service), (stop,)))
    threads = [
        threading.Thread(target=target, args=arguments, name=name, daemon=True)
        for name, target, arguments in work
    ]
    for thread in threads:
        thread.start()
    address = "http://{}:{}".format(*listeners[0].getsockname()[:2])
    log.info("service up", address=address, worker=worker.number)
    unsaid = ""
    try:
        while not stop.is_set():
            try:
                if config.workers > 1:
                    note(worker.data_dir, worker.number, own_port, service.answered)
                if worker.first:
                    report(status_of(service, address))
                unsaid = ""
            except OSError as error:  # a full disk, say: answers go on
                if str(error) != unsaid:
                    log.error("status not written, answers go on", reason=str(error))
                unsaid = str(error)
            stop.wait(1.0)
            for thread in threads:
                if not (thread.is_alive() or stop.is_set()):
                    raise ServiceError(f"the service's {thread.name} thread ended; see its log")
    finally:
        stop.set()
        server.should_exit = True
        last = time.monotonic() + 10
        for thread in threads:
            thread.join(max(0.0, last - time.monotonic()))
        service.close()
        service.histories.close()
        if worker.first:
            with contextlib.suppress(OSError):
                report(status_of(service, address).and_says(ready=False))


def _service(worker: Worker) -> RetrievalService:
    config, data_dir, folder = worker.config, worker.data_dir, worker.folder
    device = search_device(worker.search, config.workers)
    recent = RecentEvents()
    judge = Judge(config.judge, recent, worker.topic) if worker.first else None
    popularity = PopularityBaseline(path=folder / "popularity.json")

    def learnt(events: list[tuple[int, int, UserSequence]]) -> None:
        recent.add(events)
        popularity.add(events)

    noted = _forgotten(worker)
    histories = UserHistories(folder / "histories", learnt, noted)
    keep_seconds = worker.keep_days * 86_400 or None
    answers = AnswerLog(
        data_dir / "service" / "answers",
        config.answers,
        worker=worker.number,
        keep_seconds=keep_seconds,
    )
    histories.forgot += [recent.forget, answers.forget]
    for user in histories.forgotten_users():  # a crash may have come before
        answers.forget(user, noted.asked_ms(user))  # what was answered since stays
    owner = str(folder.relative_to(data_dir))
    identity = TopicIdentity(data_dir, owner, worker.kafka, {"sequences": worker.topic})
    return RetrievalService(
        worker,
        SnapshotFollower(
            data_dir,
            worker.search,
            judge=judge,
            follow_decisions=not worker.first,
            device=device,
        ),
        histories,
        SequenceFollower(histories, worker.kafka, worker.topic, identity=identity),
        popularity=popularity,
        recent=recent,
        answers=answers,
    )


def _forgotten(worker: Worker) -> ForgottenUsers:
    """Who is to be forgotten; Kafka may be a day or two late with what it deletes."""
    keep_seconds = (worker.keep_days + LATE_DAYS) * 86_400 if worker.keep_days else None
    return ForgottenUsers(worker.data_dir, keep_seconds)


def _writer(worker: Worker) -> KafkaWriter | None:
    if worker.topics is None:
        return None
    identity = worker.folder / "producer"
    return KafkaWriter(worker.kafka, identity, worker.topics.clicks, worker.delay_ms)


def _log_time_ms(data_dir: Path) -> int | None:
    """The time of the log that is being replayed; None where none is."""
    replay = read_status(data_dir, ReplayStatus)
    if replay.done or not is_alive(replay, moment.now()):
        return None
    return replay.simulated_time_ms or 0


def _app(
    worker: Worker, service: RetrievalService, own_port: int, writer: KafkaWriter | None
) -> FastAPI:
    ingestion = None
    if writer is not None and worker.topics is not None:
        ends = TopicEnd(worker.kafka, worker.topics.items)
        ingestion = partial(
            router,
            writer,
            ItemChanges(writer, worker.topics, service.follower.properties, ends),
            worker.topics,
            partial(_log_time_ms, worker.data_dir),
            forgotten=_forgotten(worker),
        )
    config = worker.config
    return create_app(
        service,
        config.body_limit_bytes,
        config.bearer(),
        hosts=(config.host, *config.hosts),
        forwarding=None if worker.first else Forwarding(worker.data_dir, own_port),
        ingestion=ingestion,
    )


def _server(app: FastAPI, limits: Limits) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=bounded_protocol(limits),
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=5,
        )
    )
