"""`sparc up`: everything on one machine, for one log."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from rich.console import Console

from deploy import settings as configuration
from deploy.local import flink_cluster, kafka_broker, mlflow_server
from deploy.local.data_directory import UpError, claim, log_name, only_one, point_latest
from deploy.local.drain import Pipeline
from deploy.local.known_log import NOTHING, check_log, go_on_with, known_log
from deploy.local.ports import PortTaken, Reservation, allocate
from deploy.local.progress import Progress
from deploy.local.supervision import Program, Supervisor
from deploy.private import UMASK
from deploy.settings import Settings
from deploy.usable_path import require_usable
from model.training.log_end import forget_log_end
from replay.text_file import check_file
from streaming.durable_files import write_atomically
from streaming.topic_identity import claim_cluster, recorded_cluster

log = structlog.get_logger(__name__)

MOST_CLASHES = 5
"""Ports that others may take between our choice and our start until the start is given up."""
STAND_BACK = 10
"""Niceness of what may wait: who asks the service, or sends a click, does not."""


def with_ports(settings: Settings, reservation: Reservation, avoid: Collection[int]) -> Settings:
    """The settings with every port chosen, none of `avoid`.

    Raises:
        PortError: if a configured port is in use.
    """
    ports = allocate(settings.ports, settings.data_dir / "ports.json", reservation, avoid)
    return settings.model_copy(update={"ports": ports})


def programs(settings: Settings) -> list[Program]:
    """The processes to supervise, in the order in which they start; prepares what they need.

    Services that the settings point to elsewhere are not started.

    Raises:
        JavaError, KafkaBrokerError, FlinkClusterError: naming what is missing, and the remedy.
        UpError, ForeignKafkaError: if the state does not come from the local broker.
    """

    def with_room(command: list[str]) -> list[str]:
        """What ends on a full disk, or does not start, is started once there is room."""
        waiting = [
            sys.executable,
            "-P",
            "-m",
            "deploy.monitoring.full_disk",
            str(settings.data_dir),
        ]
        return [*waiting, *command]

    found = []
    if not settings.kafka.bootstrap:
        broker = kafka_broker.broker_of(settings)
        if recorded_cluster(settings.data_dir) and kafka_broker.cluster_id(broker) is None:
            raise UpError(
                f"{broker.data_dir} is gone, with the records that the state in "
                f"{settings.data_dir} comes from; restore it, or begin anew with --fresh"
            )
        kafka_broker.prepare(broker)
        if identity := kafka_broker.cluster_id(broker):
            claim_cluster(settings.data_dir, identity, str(broker.data_dir))
        command = with_room(kafka_broker.command(broker))
        found.append(Program("kafka", command, broker.data_dir, stop_seconds=30))
    if not settings.flink.address:
        cluster = flink_cluster.cluster_of(settings)
        flink_cluster.prepare(cluster)
        job_manager = flink_cluster.job_manager_command()
        task_manager = flink_cluster.task_manager_command(cluster)
        for name, command in (("jobmanager", job_manager), ("taskmanager", task_manager)):
            found.append(Program(name, with_room(command), cluster.data_dir, nice=STAND_BACK))
    if not settings.registry.tracking_uri:
        mlflow = mlflow_server.MlflowServerConfig(port=settings.ports.mlflow)
        command = mlflow_server.mlflow_server_command(mlflow, settings.data_dir)
        found.append(Program("mlflow", with_room(command), nice=STAND_BACK))
    sparc = [sys.executable, "-P", "-m", "deploy"]  # -P: no package of the working directory
    found.append(Program("serve", [*sparc, "serve"]))
    # A job that was given up is not begun again at once: it ends a drain, with the cause.
    stream = Program("stream", [*sparc, "stream"], nice=STAND_BACK, stop_seconds=30, one_shot=True)
    found.append(stream)
    # The indexer works little, and new items wait for it.
    for part, nice in (("index", STAND_BACK // 2), ("train", STAND_BACK), ("register", STAND_BACK)):
        found.append(Program(part, [*sparc, part], nice=nice, stop_seconds=30))
    found.append(Program("replay", [*sparc, "replay"], nice=STAND_BACK, one_shot=True))
    return found


def _with_secrets_file(settings: Settings, config: Path | None) -> Settings:
    """The settings, with where the secrets can be read by questions from another terminal.

    Raises:
        SecurityError, ServiceError, RegistryError: if a file with a secret cannot be read.
    """
    _ = settings.kafka_connection, settings.service.bearer(), settings.registry.basic()
    given = config or os.environ.get("SPARC_CONFIG")
    if given is None or settings.secrets_file is not None:
        return settings
    return settings.model_copy(update={"secrets_file": Path(given).resolve()})


def write_config(settings: Settings) -> Path:
    """Write the effective configuration, without its secrets, where every part reads it."""
    path = settings.data_dir / configuration.CONFIG
    write_atomically(path, configuration.as_toml(settings).encode())
    return path


@dataclass(frozen=True)
class Wish:
    """What the command line asks for."""

    events: Path | None = None
    items: Path | None = None
    dataset: str | None = None
    rate: float | None = None
    speedup: float | None = None
    strict: bool = False
    drain: bool = False
    fresh: bool = False
    data_dir: Path | None = None
    config: Path | None = None


def replay_section(wish: Wish, known: Mapping[str, Any] = NOTHING) -> dict[str, Any]:
    """The log that is meant, by flags over variables over the file; its paths are absolute.

    Where none of them names one, it is the `known` one.

    A flag also puts out what it excludes: `--events` a dataset, `--rate` a speed-up.

    Raises:
        SettingsError, ReplayError: naming the setting, or the file and what is wrong with it.
    """
    section: dict[str, Any] = {"strict": True} if wish.strict else {}
    for name in ("events", "items", "dataset", "rate", "speedup"):
        if getattr(wish, name) is not None:
            section[name] = getattr(wish, name)
    for name, excluded in (
        ("events", {"dataset": ""}),
        ("dataset", {"events": None, "items": None}),
        ("rate", {"speedup": 0.0}),
        ("speedup", {"rate": 0.0}),
    ):
        if name in section:
            section = excluded | section
    alone = {name: value for name, value in section.items() if name != "items"}
    named = configuration.load(wish.config, written=False, replay=alone).replay
    section = go_on_with(known, section, named)
    named = configuration.load(wish.config, written=False, replay=section).replay
    for name in ("events", "items"):
        path = getattr(named, name)
        if path is not None:
            if str(path) != known.get(name):  # of that one there is a copy
                check_file(path)
            section[name] = path.resolve()  # the parts run elsewhere
    if named.dataset:
        section["dataset"] = named.dataset
    return section


def run(wish: Wish, stop: threading.Event) -> dict[str, Any] | None:
    """Start everything and stay until `stop` is set; with `drain` until the end of the log.

    Returns:
        The summary of a drain; None without one.

    Raises:
        UpError, PathError, SettingsError, KnownLogError, ReplayError, PortError, JavaError,
            PipelineError: in one line, what is wrong and what to do.
    """
    os.umask(UMASK)
    given = wish.data_dir or os.environ.get("SPARC_DATA_DIR")
    if not given:
        section = replay_section(wish)
        given = configuration.DATA / log_name(section.get("events"), section.get("dataset"))
    data_dir = Path(given).expanduser().resolve()
    require_usable(data_dir)
    known = known_log(data_dir)
    section = replay_section(wish, known)
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UpError(
            f"cannot make the data directory {data_dir} ({error.strerror}); choose another one "
            "with --data-dir or SPARC_DATA_DIR"
        ) from error
    with only_one(data_dir), Reservation() as reservation:
        claim(data_dir, fresh=wish.fresh)
        # who waits for the end of a log wants it learnt well, and not soon: the same each time
        more = {"trainer": {"repeatable": True}} if wish.drain else {}
        forget_log_end(data_dir)
        settings = configuration.load(wish.config, data_dir, written=False, replay=section, **more)
        settings = _with_secrets_file(settings, wish.config)
        check_log(settings, known)
        avoid: set[int] = set()
        while True:
            # As late as can be: what is free now has to be free when the parts come to listen.
            ready = with_ports(settings, reservation, avoid)
            every = programs(ready)
            write_config(ready)
            point_latest(data_dir)
            try:
                return _supervise(ready, every, wish.drain, stop)
            except PortTaken as taken:
                if getattr(settings.ports, taken.name) or len(avoid) == MOST_CLASHES:
                    raise
                log.warning("port_taken", part=taken.name, port=taken.port)
                avoid.add(taken.port)


def _supervise(
    settings: Settings, every: list[Program], drain: bool, stop: threading.Event
) -> dict[str, Any] | None:
    addresses = {
        "Kafka": settings.bootstrap,
        "Flink": settings.flink_tls.url(settings.flink_address),
        "MLflow": settings.tracking_uri,
        "retrieval service": f"http://{settings.service.host}:{settings.ports.service}/docs",
        "logs": str(settings.data_dir / "logs"),
    }
    supervisor = Supervisor(every, settings.data_dir / "logs", part_environment(settings))
    try:
        supervisor.wait_until_up()
        with Progress(Console(stderr=False), addresses) as progress:
            pipeline = Pipeline(settings, supervisor, progress, stop)
            if drain:
                return pipeline.drain()
            pipeline.stay()
            return None
    finally:
        supervisor.stop()


def part_environment(settings: Settings) -> dict[str, str]:
    """The environment of every part: ours, but what is set is what was written.

    A variable that a flag has overruled would overrule it in the parts.
    """
    return {
        **configuration.without_settings(os.environ),
        "SPARC_CONFIG": str(settings.data_dir / configuration.CONFIG),
        **configuration.passed_on(settings),
        "PYTHONUNBUFFERED": "1",
        # Where bytecode may not be kept, importing torch or MLflow costs seconds in each part.
        "PYTHONDONTWRITEBYTECODE": "",
        # Each part uses one core; their threads would only fight over two.
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "OPENBLAS_NUM_THREADS": os.environ.get("OPENBLAS_NUM_THREADS", "1"),
        "MALLOC_ARENA_MAX": "2",
    }
