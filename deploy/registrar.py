"""Registers every published snapshot in MLflow, in order, once, and follows with the aliases.

The pointer `current.json` is the switch and MLflow the catalogue: nothing waits for the registry.
While it is down or slow the snapshots stay on disk (the indexer's retention spares what is not
registered) and are registered later, oldest first. After a registration the version is announced
on the topic `snapshots`; announcements that Kafka does not take yet are kept and sent later.

A step does one thing and can be repeated after a crash at any point: register the oldest snapshot
that is not registered; else point the aliases where the pointer points.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import structlog
from kafka.errors import KafkaError

from deploy.announcements import Announce, KafkaAnnouncer, announcement
from deploy.registry import Config, Ledger, RegisteredVersion
from indexer.pointer import SNAPSHOTS, read_pointer, snapshot_path
from model.manifest import MANIFEST, Manifest, ManifestError, read_manifest, verify

if TYPE_CHECKING:  # faiss would come along
    from indexer.soft_search import Config as SearchConfig

log = structlog.get_logger(__name__)


class Catalogue(Protocol):
    """What the registrar asks of a registry; `deploy.mlflow_registry.Registry` is one."""

    def open(self) -> str:
        """Find or create what registration needs."""

    def versions(self) -> dict[str, RegisteredVersion]:
        """Registered versions by digest."""

    def register(
        self, directory: Path, manifest: Manifest, parent: Manifest | None
    ) -> RegisteredVersion:
        """Register a snapshot once."""

    def promote(self, mlflow_version: int) -> None:
        """Make a version champion and the champion before it previous."""

    def challenge(self, mlflow_version: int | None) -> None:
        """Make a version challenger, or have none."""


class Registrar:
    """Brings a registry up to date with the snapshots of one data directory.

    `step` is called by one thread; `status` may be called by another.
    """

    def __init__(
        self, config: Config, data_dir: Path, catalogue: Catalogue, announce: Announce
    ) -> None:
        self._config = config
        self._data_dir = data_dir
        self._catalogue = catalogue
        self._announce = announce
        self._ledger = Ledger(data_dir)
        self._refused: dict[int, str] = {}
        self._aliases: tuple[int | None, int | None] | None = None
        self._opened = False
        self.reachable = False
        self.last_error = ""

    def step(self) -> bool:
        """Do the next thing that is due in the registry; False where nothing is.

        Raises:
            Exception: whatever the registry raises; the step stays due.
        """
        try:
            return self._step()
        except BaseException:
            self._opened = False  # what returns after an outage may be another registry
            raise

    def _step(self) -> bool:
        if not self._opened:
            self._catalogue.open()
            self._ledger.keep_only(self._catalogue.versions())
            self._opened = True
        if pending := self._pending():
            self._register(pending[0])
            return True
        aliases = self._wanted_aliases()
        if aliases != self._aliases:
            champion, challenger = aliases
            if champion is not None:
                self._catalogue.promote(champion)
            self._catalogue.challenge(challenger)
            self._aliases = aliases
            log.info("aliases set", champion=champion, challenger=challenger)
            return True
        return False

    def announce_next(self) -> bool:
        """Send the oldest announcement that is owed; False where none is.

        Raises:
            Exception: whatever Kafka raises; the announcement stays owed.
        """
        if not self._ledger.owed:
            return False
        self._announce(self._config.model_name, self._ledger.owed[0])
        self._ledger.announced()
        return True

    def _published(self) -> list[int]:
        folder = self._data_dir / SNAPSHOTS
        return sorted(int(p.parent.name) for p in folder.glob(f"[0-9]*/{MANIFEST}"))

    def _pending(self) -> list[int]:
        return [
            number
            for number in self._published()
            if number not in self._ledger.versions and number not in self._refused
        ]

    def _directory(self, number: int) -> Path:
        return self._data_dir / snapshot_path(number)

    def _register(self, number: int) -> None:
        directory = self._directory(number)
        try:
            manifest = verify(directory, "snapshot")
        except ManifestError as error:
            self._refused[number] = str(error)
            log.error("snapshot not registered, it is damaged", version=number, reason=str(error))
            return
        parent_number = manifest.facts.get("parent")
        try:
            parent = (
                None
                if parent_number is None
                else read_manifest(self._directory(parent_number), "snapshot")
            )
        except ManifestError:
            parent = None  # already deleted
        version = self._catalogue.register(directory, manifest, parent)
        self._ledger.add(version, announcement(version, manifest))
        log.info("snapshot registered", version=number, mlflow_version=version.mlflow_version)

    def _wanted_aliases(self) -> tuple[int | None, int | None]:
        """MLflow's numbers of champion (what the pointer serves) and challenger (newer)."""
        pointer = read_pointer(self._data_dir)
        served = -1 if pointer is None else pointer.version
        champion = self._ledger.versions.get(served)
        newest = max(self._ledger.versions, default=-1)
        return (
            champion.mlflow_version if champion else None,
            self._ledger.versions[newest].mlflow_version if newest > served else None,
        )

    def status(self) -> dict[str, Any]:
        """Where registration stands, for the status file."""
        versions = dict(self._ledger.versions)
        pending = self._pending()
        champion = self._wanted_aliases()[0]
        return {
            "registered_versions": len(versions),
            "last_registered": max(versions, default=0),
            "champion_version": (self._aliases or (None, None))[0],
            "pending": len(pending),
            "refused": len(self._refused),
            "unannounced": len(self._ledger.owed),
            "reachable": self.reachable,
            "last_error": self.last_error,
            "caught_up": self._opened
            and not pending
            and not self._ledger.owed
            and self._aliases is not None
            and self._aliases[0] == champion,
        }


class Backoff:
    """Waits 1, 2, 4, ... seconds, at most `longest`, after failures in a row."""

    def __init__(self, longest: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._longest, self._clock = longest, clock
        self._failures, self._until = 0, 0.0

    @property
    def over(self) -> bool:
        """Whether the next attempt may be made."""
        return self._clock() >= self._until

    def failed(self) -> float:
        """Count a failure; returns the seconds to wait."""
        wait = min(2.0 ** min(self._failures, 30), self._longest)
        self._failures += 1
        self._until = self._clock() + wait
        return wait

    def succeeded(self) -> None:
        """Forget earlier failures."""
        self._failures = 0


def follow(registrar: Registrar, config: Config, stop: threading.Event) -> None:
    """Register and announce until `stop`; what fails is tried again, later each time."""
    from mlflow.exceptions import MlflowException

    registry, kafka = (Backoff(config.longest_retry_seconds) for _ in range(2))
    while not stop.is_set():
        busy = False
        if registry.over:
            try:
                busy = registrar.step()
                registrar.reachable, registrar.last_error = True, ""
                registry.succeeded()
            except (MlflowException, OSError) as error:
                registrar.reachable, registrar.last_error = False, _one_line(error)
                wait = registry.failed()
                log.warning("registration waits", reason=_one_line(error), retry_seconds=wait)
        if kafka.over:
            try:
                busy |= registrar.announce_next()
                kafka.succeeded()
            except (KafkaError, OSError) as error:
                wait = kafka.failed()
                log.warning("announcement waits", reason=_one_line(error), retry_seconds=wait)
        if not busy:
            stop.wait(config.poll_seconds)


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def run(
    config: Config,
    data_dir: Path,
    tracking_uri: str,
    *,
    bootstrap_servers: str,
    topic: str,
    search: SearchConfig,
    client_settings: Mapping[str, Any],
    stop: threading.Event,
    report: Callable[[dict[str, Any]], None],
) -> None:
    """Register until `stop` is set.

    Args:
        config: names and intervals.
        data_dir: holds `snapshots/`, `current.json` and `registry/`.
        tracking_uri: of the MLflow server.
        bootstrap_servers: of Kafka.
        topic: for the announcements.
        search: how the service searches; stored with each version, so that it answers alike.
        client_settings: further settings of kafka-python.
        stop: ends the run.
        report: takes the status, about once a second.

    Raises:
        RegistryError: if the registry refuses for good (a deleted experiment, say).
    """
    # The registrar itself repeats, after looking whether a lost request was carried out.
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(config.request_timeout_seconds)
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    report({"caught_up": False, "reachable": False})
    from deploy.mlflow_registry import Registry  # imports MLflow, which takes seconds

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    ledger = Ledger(data_dir)
    catalogue = Registry(
        tracking_uri, config.model_name, config.experiment, ledger.pipeline, search
    )
    announcer = KafkaAnnouncer(bootstrap_servers, topic, client_settings)
    registrar = Registrar(config, data_dir, catalogue, announcer)
    fatal: list[BaseException] = []

    def work() -> None:
        try:
            follow(registrar, config, stop)
        except BaseException as error:
            fatal.append(error)

    worker = threading.Thread(target=work, name="registrar", daemon=True)
    worker.start()
    while worker.is_alive() and not stop.wait(1.0):
        report(registrar.status())
    # A step that hangs in a slow registry is left behind: it is repeated at the next start.
    worker.join(timeout=10.0)
    report(registrar.status())
    if fatal:
        raise fatal[0]
    if not worker.is_alive():
        announcer.close()
        if registrar.reachable:
            catalogue.close()
