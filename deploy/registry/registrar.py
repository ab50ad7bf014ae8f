"""Registers every published snapshot in MLflow, in order, once, and follows with the aliases.

The pointer `current.json` is the switch and MLflow the catalogue: nothing waits for the registry.
While it is down or slow the snapshots stay on disk (the indexer's retention spares what is not
registered) and are registered later, oldest first. After a registration the version is announced
on the topic `snapshots`; announcements that Kafka does not take yet are kept and sent later.

A step does one thing and can be repeated after a crash at any point: register the oldest snapshot
that is not registered; else bring the aliases up to date (`deploy/registry/aliases.py`); else
write the newest decisions to the tags of their versions; else delete the oldest version beyond
retention.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import structlog
from kafka.errors import KafkaError

from deploy.registry.aliases import AliasHolder, AliasKeeper
from deploy.registry.announcements import Announce, KafkaAnnouncer, announcement
from deploy.registry.code_revision import code_revision
from deploy.registry.config import RegistryConfig
from deploy.registry.live_metrics import LiveMetrics
from deploy.release import version_metadata
from deploy.release.decisions import CHAMPION, decisions
from deploy.release.errors import RegistryError
from deploy.release.ledger import Ledger, RegisteredVersion
from indexer.errors import SnapshotError
from indexer.search.config import SearchConfig
from indexer.snapshots.pointer import SNAPSHOTS, snapshot_path
from indexer.snapshots.published import require_published
from indexer.snapshots.snapshot_facts import SnapshotFacts
from model.artifacts.manifest import MANIFEST, Manifest, ManifestError, read_manifest, verify
from model.artifacts.verified_files import VerifiedFiles
from streaming.errors import StreamingError
from streaming.kafka_clients import KafkaConnection
from streaming.statuses import RegistrarStatus, Report
from streaming.topic_identity import TopicIdentity

log = structlog.get_logger(__name__)


class Catalogue(AliasHolder, Protocol):
    """What the registrar asks of a registry; `deploy.registry.mlflow_registry.Registry` is one."""

    def open(self) -> str:
        """Find or create what registration needs."""

    def versions(self) -> dict[str, RegisteredVersion]:
        """Registered versions by digest."""

    def register(
        self, directory: Path, manifest: Manifest, parent: SnapshotFacts | None
    ) -> RegisteredVersion:
        """Register a snapshot once."""

    def tag(self, mlflow_version: int, tags: dict[str, str]) -> None:
        """Set tags of a version."""

    def retire(self, mlflow_version: int) -> bool:
        """Delete a version unless an alias names it; whether it is gone."""

    def log_live(self, metrics: dict[str, float], step: int, time_ms: int) -> None:
        """Add to the curves of the pipeline's run."""


class Registrar:
    """Brings a registry up to date with the snapshots of one data directory.

    `step` is called by one thread; `status` may be called by another.
    """

    def __init__(
        self, config: RegistryConfig, data_dir: Path, catalogue: Catalogue, announce: Announce
    ) -> None:
        self._config = config
        self._data_dir = data_dir
        self._catalogue = catalogue
        self._announce = announce
        self._ledger = Ledger(data_dir)
        self._verified = VerifiedFiles()
        self._refused: dict[int, str] = {}
        self._spared: set[int] = set()
        self._aliases = AliasKeeper(data_dir, catalogue, self._ledger, config.alias_seconds)
        self._live = LiveMetrics(data_dir, catalogue.log_live, config.live_seconds)
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
            self._aliases.begin()
        if pending := self._pending():
            self._register(pending[0])
            return True
        if self._aliases.step() or self._tag_next() or self._retire_next():
            return True
        self._live.step()
        return False

    def _tag_next(self) -> bool:
        """Write the oldest decision that is not in the tags yet; False where none is."""
        made = decisions(self._data_dir)
        due = next((d for d in made if d.at_ms > self._ledger.tagged), None)
        if due is None:
            return False
        version = self._ledger.versions.get(due.version)
        if version is not None:  # else it was refused, or is deleted
            self._catalogue.tag(version.mlflow_version, version_metadata.decision_tags(due))
        self._ledger.tagged_to(due.at_ms)
        return True

    def _retire_next(self) -> bool:
        """Delete the oldest version beyond retention that no alias names and that is not on disk.

        What is on disk stays: it may be served again, and would be registered again.
        """
        keep = self._config.keep_versions
        surplus = len(self._ledger.versions) - keep
        if keep < 1 or surplus < 1:
            return False
        named = set(self._ledger.aliases.values())
        for number in sorted(self._ledger.versions)[:surplus]:
            version = self._ledger.versions[number]
            if version.mlflow_version in named | self._spared or self._directory(number).is_dir():
                continue
            if self._catalogue.retire(version.mlflow_version):
                self._ledger.forget(number)
                log.info("version retired", version=number, mlflow_version=version.mlflow_version)
                return True
            self._spared.add(version.mlflow_version)  # somebody's alias: not asked at every step
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
            manifest = verify(directory, "snapshot", self._verified.digest)
            require_published(self._data_dir, number, manifest.digest)
            facts = SnapshotFacts.of(manifest)
        except (ManifestError, SnapshotError) as error:
            self._refused[number] = str(error)
            log.error("snapshot not registered", version=number, reason=str(error))
            return
        parent = None
        if facts.parent is not None:
            with contextlib.suppress(ManifestError):  # it is already deleted
                parent = SnapshotFacts.of(read_manifest(self._directory(facts.parent), "snapshot"))
        registered = self._catalogue.register(directory, manifest, parent)
        version = replace(registered, snapshot_version=number)  # a tag may say anything
        self._ledger.add(version, announcement(version, facts))
        log.info("snapshot registered", version=number, mlflow_version=version.mlflow_version)

    def status(self) -> RegistrarStatus:
        """Where registration stands."""
        versions = dict(self._ledger.versions)
        pending = self._pending()
        return RegistrarStatus(
            registered_versions=len(versions),
            last_registered=max(versions, default=0),
            champion_version=self._ledger.aliases.get(CHAMPION),
            aliases=dict(self._ledger.aliases),
            pending=len(pending),
            refused=len(self._refused),
            unannounced=len(self._ledger.owed),
            reachable=self.reachable,
            last_error=self.last_error,
            problem=self.last_error,
            caught_up=self._opened
            and not pending
            and not self._ledger.owed
            and self._aliases.settled,
        )


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


def follow(registrar: Registrar, config: RegistryConfig, stop: threading.Event) -> None:
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
            except (MlflowException, OSError, RegistryError, SnapshotError) as error:
                reason, wait = _one_line(error), registry.failed()
                if reason != registrar.last_error:  # said once, not at every attempt
                    log.warning("registration waits", reason=reason, retry_seconds=wait)
                registrar.reachable, registrar.last_error = False, reason
        if kafka.over:
            try:
                busy |= registrar.announce_next()
                kafka.succeeded()
            except (KafkaError, OSError, StreamingError) as error:
                wait = kafka.failed()
                log.warning("announcement waits", reason=_one_line(error), retry_seconds=wait)
        if not busy:
            stop.wait(config.poll_seconds)


def _one_line(error: Exception) -> str:
    if isinstance(error, RegistryError):  # ours, with the remedy
        return " ".join(str(error).split())
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def run(
    config: RegistryConfig,
    data_dir: Path,
    tracking_uri: str,
    *,
    kafka: KafkaConnection,
    topic: str,
    search: SearchConfig,
    stop: threading.Event,
    report: Report,
) -> None:
    """Register until `stop` is set.

    Args:
        config: names and intervals.
        data_dir: holds `snapshots/`, `current.json` and `registry/`.
        tracking_uri: of the MLflow server.
        kafka: where the announcements go.
        topic: for the announcements.
        search: how the service searches; stored with each version, so that it answers alike.
        stop: ends the run.
        report: takes the status, about once a second.

    Raises:
        RegistryError: if the local record of what is registered is malformed.
    """
    # The registrar itself repeats, after looking whether a lost request was carried out.
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(config.request_timeout_seconds)
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    report(RegistrarStatus(caught_up=False, reachable=False))
    from deploy.registry.mlflow_registry import Registry  # imports MLflow, which takes seconds
    from deploy.registry.snapshot_storing import OWN_STORE

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    ledger = Ledger(data_dir)
    catalogue = Registry(
        config.let_in(tracking_uri),
        config.model_name,
        config.experiment,
        ledger.pipeline,
        search,
        code_revision(),
        data_dir / OWN_STORE,
    )
    identity = TopicIdentity(data_dir, "registry", kafka, {})
    announcer = KafkaAnnouncer(kafka, topic, identity)
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
