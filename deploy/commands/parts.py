"""Each part of the pipeline run from the settings: what `sparc train`, `sparc index`, ... do.

The heavy imports (torch, faiss, Flink, MLflow) happen inside, so that a process pays only for the
part that it runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from deploy import settings as configuration
from deploy.commands.console import (
    configure_logging,
    errors_as_one_line,
    exit_code_of,
    run_part,
)
from deploy.commands.options import ConfigFile, DataDir
from deploy.release.decisions import served_versions
from deploy.release.ledger import aliased_versions, registered_versions
from deploy.release.split import SplitError, split_versions
from deploy.settings import Settings
from streaming.statuses import PartStatus, Report
from streaming.topics import await_topics

if TYPE_CHECKING:
    from model.ranks import Place

log = structlog.get_logger(__name__)

Part = Callable[..., None]


def topics_are_there(settings: Settings, stop: threading.Event, report: Report) -> bool:
    """Wait for Kafka and create the topics that are missing; see `streaming.topics`."""
    return await_topics(
        settings.kafka_connection,
        settings.data_dir,
        settings.kafka.topics(),
        stop,
        lambda: report(PartStatus(state="waiting for Kafka")),
        partitions=settings.kafka.partitions,
        replication=settings.kafka.replication,
        keep_days=settings.privacy.keep_days,
    )


def replay(
    config: ConfigFile = None,
    data_dir: DataDir = None,
) -> None:
    """Replay the configured log into Kafka; ends when the log does.

    Example: `SPARC_REPLAY__EVENTS=ratings_Beauty.csv sparc replay --data-dir state`
    """
    _run(replay_log, "replay", config, data_dir)


def train(config: ConfigFile = None, data_dir: DataDir = None) -> None:
    """Train online from `sequences` and publish what was learnt, on a GPU where there is one.

    Example: `SPARC_TRAINER__BATCH_SIZE=512 sparc train --data-dir state`
    """
    _run(train_model, "train", config, data_dir)


def index(config: ConfigFile = None, data_dir: DataDir = None) -> None:
    """Index new items and each handover of the trainer; publish snapshots.

    Example: `sparc index --data-dir state`
    """
    _run(index_items, "index", config, data_dir)


def register(config: ConfigFile = None, data_dir: DataDir = None) -> None:
    """Register each snapshot as a version of the model in MLflow, and move the aliases.

    Example: `SPARC_REGISTRY__TRACKING_URI=http://mlflow:5000 sparc register --data-dir state`
    """
    _run(register_versions, "register", config, data_dir)


def serve(config: ConfigFile = None, data_dir: DataDir = None) -> None:
    """Answer queries over HTTP from the snapshot that is current, with `service.workers` processes.

    Example: `SPARC_PORTS__SERVICE=8000 sparc serve --data-dir state`
    """
    _run(serve_queries, "serve", config, data_dir)


def _run(body: Part, name: str, config: Path | None, data_dir: Path | None) -> None:
    with errors_as_one_line():
        settings = configuration.load(config, data_dir)
    run_part(name, settings, lambda stop, report: body(settings, stop, report))


def replay_log(settings: Settings, stop: threading.Event, report: Report) -> None:
    """Replay the log into `items` and `clicks`."""
    from replay import replay as room

    room.run(
        settings.replay,
        settings.kafka_connection,
        settings.kafka.topics(),
        settings.data_dir,
        stop,
        report,
        librdkafka=settings.kafka.security.librdkafka(),
        partitions=settings.kafka.partitions,
        replication=settings.kafka.replication,
        keep_days=settings.privacy.keep_days,
        out_of_orderness_ms=settings.streaming.out_of_orderness_ms,
    )


def train_model(settings: Settings, stop: threading.Event, report: Report) -> None:
    """Train from `sequences`, publish handovers."""
    from deploy.commands import trainer_group
    from indexer.search.soft_search import ServedPath
    from model.training import training_process

    config, learner_config = settings.trainer_config(), settings.learner_config()

    def ready() -> bool:
        return topics_are_there(settings, stop, report)

    def work(place: Place) -> None:
        training_process.run(
            config,
            learner_config,
            settings.kafka_connection,
            settings.kafka.topics(),
            settings.data_dir,
            lambda model: ServedPath(settings.search, model),
            stop,
            report,
            settings.items,
            place,
        )

    trainer_group.run(config.workers, settings.log_level, ready, work)


def index_items(settings: Settings, stop: threading.Event, report: Report) -> None:
    """Index items and handovers, publish snapshots."""
    from indexer.indexing import process

    snapshots = settings.data_dir / "snapshots"

    def needed() -> set[int]:
        """What is not registered yet, serves or served, and what an alias or an arm names."""
        on_disk = {int(p.name) for p in snapshots.iterdir() if p.name.isdigit()}
        missing = on_disk - set(registered_versions(settings.data_dir))
        try:
            named = aliased_versions(settings.data_dir) | split_versions(settings.data_dir)
        except SplitError as error:  # an arm may answer from any of them
            log.error("versions of the split unknown, so none is removed", reason=str(error))
            return on_disk
        return missing | served_versions(settings.data_dir) | named

    if topics_are_there(settings, stop, report):
        process.run(
            settings.indexer,
            kafka=settings.kafka_connection,
            topics=settings.kafka.topics(),
            data_dir=settings.data_dir,
            stop=stop,
            report=report,
            protected=needed,
            items=settings.items,
        )


def register_versions(settings: Settings, stop: threading.Event, report: Report) -> None:
    """Register snapshots in MLflow."""
    from deploy.registry import registrar

    registrar.run(
        settings.registry,
        settings.data_dir,
        settings.tracking_uri,
        kafka=settings.kafka_connection,
        topic=settings.kafka.topics().snapshots,
        search=settings.search,
        stop=stop,
        report=report,
    )


def serve_queries(settings: Settings, stop: threading.Event, report: Report) -> None:
    """Answer queries over HTTP, and show the dashboard."""
    from deploy.dashboard.routes import add_dashboard
    from deploy.service import process
    from deploy.service.config import Worker
    from deploy.service.worker_group import NO_ROOM, REFUSED, WorkerGroup

    def begin(worker: Worker) -> int:
        configure_logging(settings.log_level, worker=worker.number)
        serve = partial(process.run, worker, stop, report, add_dashboard)
        return exit_code_of(serve, REFUSED, NO_ROOM)

    service = Worker(
        settings.service,
        settings.data_dir,
        settings.kafka_connection,
        settings.kafka.topics().sequences,
        settings.search,
        settings.ports.service,
        topics=settings.kafka.topics(),
        delay_ms=settings.streaming.out_of_orderness_ms,
        keep_days=settings.privacy.keep_days,
    )
    if settings.service.workers > 1:
        WorkerGroup(service, begin).run(stop)
    else:
        process.run(service, stop, report, add_dashboard)
