"""The retrieval service as a process: histories from Kafka, snapshots from disk, answers over HTTP.

It answers `/health` at once, and queries as soon as a snapshot is loaded: nothing waits for Kafka
or the registry, and both may go away while it serves.
"""

from __future__ import annotations

import contextlib
import gc
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from deploy.http.connections import most_connections, raise_descriptors
from deploy.service.config import ServiceConfig, ServiceError
from streaming.statuses import Report, ServiceStatus

if TYPE_CHECKING:
    from fastapi import FastAPI

    from deploy.service.retrieval import RetrievalService
    from indexer.search.soft_search import SearchConfig
    from streaming.events import UserSequence
    from streaming.kafka_clients import KafkaConnection

log = structlog.get_logger(__name__)


SWITCH_SECONDS = 0.0005

Extension = Callable[["FastAPI", "RetrievalService"], Callable[[threading.Event], None]]
"""Adds routes to the service; what it returns runs in a thread of its own until it is stopped."""


def run(
    config: ServiceConfig,
    data_dir: Path,
    port: int,
    *,
    kafka: KafkaConnection,
    topic: str,
    search: SearchConfig,
    stop: threading.Event,
    report: Report,
    worker: int = 1,
    extension: Extension | None = None,
) -> None:
    """Serve until `stop` is set.

    Args:
        config: limits and threads.
        data_dir: holds `snapshots/` and `current.json`; `service/` is this process's own.
        port: to listen on; 0 picks a free one, which the status tells.
        kafka: where the sequences are.
        topic: of the sequences.
        search: how queries are searched.
        stop: ends the run.
        report: takes the status of the first worker, about once a second.
        worker: which of `config.workers` this one is.
        extension: what the first worker shows besides.

    Raises:
        ServiceError: if the port is taken, or there is no such worker.
        HistoryStoreError: if another service uses the data directory.
    """
    if not 1 <= worker <= config.workers:
        raise ServiceError(
            f"worker {worker} of a service that has {config.workers}: raise service.workers"
        )
    together = config.workers > 1
    listeners = [_listen(config.host, port, shared=together)]
    if together:
        listeners.append(_listen("127.0.0.1", 0))
    try:
        _serve(
            config,
            data_dir,
            listeners,
            kafka,
            topic,
            search,
            stop,
            report,
            worker,
            extension,
        )
    finally:
        for listener in listeners:
            listener.close()


def _listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
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
    config: ServiceConfig,
    data_dir: Path,
    listeners: list[socket.socket],
    kafka: KafkaConnection,
    topic: str,
    search: SearchConfig,
    stop: threading.Event,
    report: Report,
    worker: int,
    extension: Extension | None,
) -> None:
    import torch
    import uvicorn

    from deploy.http.bounded_protocol import bounded_protocol
    from deploy.release.judge import Judge, RecentEvents
    from deploy.service.answer_log import AnswerLog
    from deploy.service.app import create_app
    from deploy.service.popularity_baseline import PopularityPeer
    from deploy.service.retrieval import RetrievalService
    from deploy.service.sequence_follower import SequenceFollower
    from deploy.service.snapshot_follower import SnapshotFollower
    from deploy.service.user_histories import UserHistories
    from deploy.service.workers import Forwarding, note
    from streaming.topic_identity import TopicIdentity

    connections = most_connections(config.limits.connections, raise_descriptors())
    token = config.bearer()
    torch.set_num_threads(1)  # a query is small: further queries use further cores
    # Else the thread that speaks HTTP waits 5 ms whenever another one computes.
    sys.setswitchinterval(SWITCH_SECONDS)
    # What was imported stays; to look through it again and again costs tens of milliseconds.
    gc.collect()
    gc.freeze()
    first = worker == 1
    folder = data_dir / "service" if first else data_dir / "service" / f"worker-{worker}"
    recent = RecentEvents()
    judge = Judge(config.judge, recent, topic) if first else None
    follower = SnapshotFollower(data_dir, search, judge=judge, follow_decisions=not first)
    popularity = PopularityPeer(path=folder / "popularity.json")

    def learnt(events: list[tuple[int, int, UserSequence]]) -> None:
        recent.add(events)
        popularity.add(events)

    histories = UserHistories(folder / "histories", learnt)
    identity = TopicIdentity(
        data_dir, str(folder.relative_to(data_dir)), kafka, {"sequences": topic}
    )
    sequences = SequenceFollower(histories, kafka, topic, identity=identity)
    answers = AnswerLog(data_dir / "service" / "answers", config.answers, worker=worker)
    service = RetrievalService(
        data_dir,
        follower,
        histories,
        sequences,
        config.threads,
        queue=config.queue,
        timeout_seconds=config.timeout_seconds,
        popularity=popularity,
        recent=recent,
        answers=answers,
        token=token,
        first=first,
    )
    own_port = listeners[-1].getsockname()[1]
    app = create_app(
        service,
        config.body_limit_bytes,
        token,
        hosts=(config.host, *config.hosts),
        forwarding=None if first else Forwarding(data_dir, own_port),
    )
    limits = replace(config.limits, connections=connections)
    server = uvicorn.Server(
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
    # In a thread, because in the main one uvicorn would take the signals for itself.
    work: list[tuple[str, Callable[..., object], tuple[Any, ...]]] = [
        ("http", server.run, (listeners,)),
        ("snapshots", follower.run, (stop, config.poll_seconds)),
        ("sequences", sequences.run, (stop,)),
        ("popularity", popularity.run, (stop,)),
        ("answers", answers.run, (stop,)),
    ]
    if extension is not None and first:
        work.append(("extension", extension(app, service), (stop,)))
    threads = [
        threading.Thread(target=target, args=arguments, name=name, daemon=True)
        for name, target, arguments in work
    ]
    for thread in threads:
        thread.start()
    address = "http://{}:{}".format(*listeners[0].getsockname()[:2])
    log.info("service up", address=address, worker=worker)
    unsaid = ""
    try:
        while not stop.is_set():
            try:
                if config.workers > 1:
                    note(data_dir, worker, own_port, service.answered)
                if first:
                    report(_status(service, address))
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
        for thread in threads:
            thread.join(timeout=10)
        service.close()
        histories.close()
        if first:
            with contextlib.suppress(OSError):
                report(_status(service, address).and_says(ready=False))


def _status(service: RetrievalService, address: str) -> ServiceStatus:
    health = service.health().model_dump()
    return ServiceStatus(
        **health | {"version": health["version"] or 0},
        address=address,
        requests=service.answered_by_all(),
        popularity_recall_at_50=service.popularity.recall,
        problem=service.follower.last_error or service.sequences.problem,
    )
