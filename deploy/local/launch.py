"""`sparc up`: everything on one machine, for one log."""

from __future__ import annotations

import hashlib
import os
import shutil
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
from deploy.local.drain import Pipeline, only_one
from deploy.local.known_log import NOTHING, check_log, go_on_with, known_log
from deploy.local.ports import PortTaken, Reservation, allocate
from deploy.local.progress import Progress
from deploy.local.supervision import Program, Supervisor
from deploy.private import UMASK, keep_private
from deploy.settings import Settings
from deploy.usable_path import require_text, require_usable
from indexer.snapshots.pointer import POINTER
from model.training.log_end import forget_log_end
from replay.text_file import check_file
from streaming.durable_files import remove_partial, write_atomically
from streaming.job.record import NO_STATE, JobRecord, RecordFile
from streaming.topic_identity import claim_cluster, recorded_cluster

log = structlog.get_logger(__name__)

LEAST_FREE_BYTES = 1 << 30
MOST_CLASHES = 5
"""Ports that others may take between our choice and our start until the start is given up."""
LEFT_SECONDS = 3600.0
"""A file that has had its temporary name for so long was left by a process that was killed."""
LONGEST_NAME = 200
"""Bytes of a log's own name in that of its data directory; file systems take 255."""
STAND_BACK = 10
"""Niceness of what may wait: who asks the service, or sends a click, does not."""


class UpError(ValueError):
    """The pipeline cannot be started like this; the message says what to change."""


def log_name(events: Path | None, dataset: str | None) -> str:
    """Name of the data directory of a log, so that each log has one of its own.

    >>> log_name(None, "amazon-2014-beauty")
    'amazon-2014-beauty'
    >>> log_name(None, None)
    'synthetic'
    """
    if events is not None:
        path = events.resolve()
        require_text(path)
        digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
        words = f"{path.parent.name}-{path.name.split('.')[0]}"
        return f"{_shortened(words)}-{digest}"
    return dataset or "synthetic"


def _shortened(name: str) -> str:
    """A name that a directory can have: of a few hundred bytes, and as `usable_path` wants it."""
    plain = "".join("_" if c < " " or c in "\\\x7f" else c for c in name)
    return plain.encode()[:LONGEST_NAME].decode(errors="ignore")


def claim(data_dir: Path, *, fresh: bool) -> None:
    """Make the data directory, empty it when asked to, and mark it as ours.

    Raises:
        UpError: if it holds something else, or the disk has no room.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    ours = (data_dir / configuration.MARK).is_file()
    content = [p for p in data_dir.iterdir() if p.name != ".lock"]
    if content and not ours:
        raise UpError(
            f"{data_dir} holds files that are not of a pipeline; choose another directory with "
            "--data-dir"
        )
    if fresh:
        for path in content:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        # Checkpoints and topics may lie elsewhere, and be those of before.
        RecordFile(data_dir).write(JobRecord().going_on_from(NO_STATE, ()))
    if shutil.disk_usage(data_dir).free < LEAST_FREE_BYTES:
        raise UpError(
            f"the disk is full: less than {LEAST_FREE_BYTES >> 30} GiB is free in {data_dir}; free "
            "some space, or choose another disk with --data-dir"
            + (
                f". Meanwhile `sparc serve --data-dir {data_dir}` answers from the last version"
                if (data_dir / POINTER).is_file()
                else ""
            )
        )
    write_atomically(data_dir / configuration.MARK, b"sparc-stream data directory\n")
    keep_private(data_dir)
    # What a part publishes it tidies up itself; these are of small files that many parts write.
    for folder in (data_dir, *(path for path in data_dir.iterdir() if path.is_dir())):
        remove_partial(folder, older_than_s=LEFT_SECONDS)


def point_latest(data_dir: Path) -> None:
    """Make `data/latest` lead to this data directory, for `sparc status` and the like.

    A checkout that may not be written to has none: those commands are given the data directory.
    """
    latest = configuration.LATEST
    partial = latest.with_name(f".latest-{os.getpid()}")
    try:
        latest.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        partial.symlink_to(data_dir.resolve())
        partial.replace(latest)
    except OSError as error:
        log.warning("latest_not_linked", path=str(latest), reason=error.strerror)


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
        job_manager = flink_cluster.job_manager_command(cluster)
        task_manager = flink_cluster.task_manager_command(cluster)
        for name, command in (("jobmanager", job_manager), ("taskmanager", task_manager)):
            found.append(Program(name, with_room(command), cluster.data_dir, nice=STAND_BACK))
    if not settings.registry.tracking_uri:
        mlflow = mlflow_server.MlflowServerConfig(port=settings.ports.mlflow)
        command = mlflow_server.mlflow_server_command(mlflow, settings.data_dir)
        found.append(Program("mlflow", with_room(command), nice=STAND_BACK))
    sparc = [sys.executable, "-P", "-m", "deploy"]  # -P: no package of the working directory
    found.append(Program("serve", [*sparc, "serve"]))
    for worker in range(2, settings.service.workers + 1):
        found.append(Program(f"serve-{worker}", [*sparc, "serve", "--worker", str(worker)]))
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
