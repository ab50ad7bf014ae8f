"""The model registry as configured, and what of this data directory it holds.

`registered.json` remembers which snapshots are registered: the indexer's retention may delete
those and no others, and the announcements on Kafka that are still owed survive a crash. The
registry itself stays the truth: an entry whose version is gone from it is dropped at start.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import orjson
from pydantic import SecretStr

from indexer.snapshots.pointer import snapshot_path
from indexer.snapshots.published import published, record, require_published
from model.artifacts.manifest import verify
from streaming.durable_files import write_atomically
from streaming.secret import MASK, remember

Download = Callable[[int, Path, str], None]


class RegistryError(RuntimeError):
    """The registry refuses what is asked of it, or its local record is unreadable."""


@dataclass(frozen=True)
class RegistryConfig:
    """Where and how snapshots are registered.

    Attributes:
        tracking_uri: of a running MLflow server; empty: the pipeline starts its own.
        username: with which it is asked; may stand in the URI, too.
        password: likewise; better in `SPARC_REGISTRY__PASSWORD`.
        model_name: registered model.
        experiment: MLflow experiment that holds one run per pipeline.
        poll_seconds: how often the snapshots on disk are looked at.
        longest_retry_seconds: the wait between attempts doubles from 1 s up to this.
        request_timeout_seconds: of one request to the registry.
        alias_seconds: how often the registry is asked whether somebody moved `champion`.
        live_seconds: how often the run of the pipeline gets live metrics; 0 turns them off.
        keep_versions: versions kept in the registry with their artifacts; older ones are deleted
            unless an alias names them or they are still on disk here. 0 keeps all of them.
    """

    tracking_uri: str = ""
    username: str = ""
    password: SecretStr = SecretStr("")
    model_name: str = "sparc"
    experiment: str = "sparc-stream"
    poll_seconds: float = 0.5
    longest_retry_seconds: float = 30.0
    request_timeout_seconds: int = 30
    alias_seconds: float = 1.5
    live_seconds: float = 15.0
    keep_versions: int = 50

    def __post_init__(self) -> None:
        if isinstance(self.password, str):
            object.__setattr__(self, "password", SecretStr(self.password))
        parts = urlsplit(self.tracking_uri)
        if "@" in parts.netloc:  # a URI is printed, logged and sent to Kafka
            host = parts.netloc.rpartition("@")[2]
            object.__setattr__(self, "tracking_uri", parts._replace(netloc=host).geturl())
            object.__setattr__(self, "username", unquote(parts.username or ""))
            object.__setattr__(self, "password", SecretStr(unquote(parts.password or "")))

    def basic(self) -> tuple[str, str] | None:
        """Name and password, where the server asks for them.

        Raises:
            RegistryError: if the password is only known to the pipeline that was started.
        """
        password = self.password.get_secret_value()
        if password == MASK:
            raise RegistryError(
                "[registry] password is not written into files: set SPARC_REGISTRY__PASSWORD, or "
                "give the --config that holds it"
            )
        remember(password)
        return (self.username, password) if self.username else None

    def let_in(self, tracking_uri: str) -> str:
        """Have MLflow's client ask with our name and password; returns the URI to give it.

        A server is told them by the variables that MLflow reads, a database in its URI.

        Raises:
            RegistryError: as `basic`.
        """
        if (basic := self.basic()) is None:
            return tracking_uri
        username, password = basic
        parts = urlsplit(tracking_uri)
        if parts.scheme not in ("http", "https"):
            both = f"{quote(username, safe='')}:{quote(password, safe='')}"
            return parts._replace(netloc=f"{both}@{parts.netloc}").geturl()
        os.environ["MLFLOW_TRACKING_USERNAME"] = username
        os.environ["MLFLOW_TRACKING_PASSWORD"] = password
        return tracking_uri


@dataclass(frozen=True)
class RegisteredVersion:
    """A version of the registered model.

    Attributes:
        mlflow_version: MLflow's number, counted from 1 in the order of registration.
        snapshot_version: the indexer's number.
        digest: SHA-256 of the snapshot's manifest.
    """

    mlflow_version: int
    snapshot_version: int
    digest: str


def ledger_path(data_dir: Path) -> Path:
    """File that remembers the registered snapshots of a data directory."""
    return data_dir / "registry" / "registered.json"


class Ledger:
    """The registered snapshots of one data directory, kept in `registered.json`.

    Attributes:
        pipeline: random id of this data directory's pipeline; names its run in MLflow.
        versions: registered snapshots by the indexer's number.
        owed: announcements not yet sent, oldest first.
        aliases: what the registrar last made of the aliases: alias -> MLflow's number.
        intended: the number that `champion` is being moved to, while that is under way.
        tagged: `at_ms` of the last decision that is written to its version's tags.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._path = ledger_path(data_dir)
        self.pipeline = uuid.uuid4().hex
        self.versions: dict[int, RegisteredVersion] = {}
        self.owed: list[dict[str, Any]] = []
        self.aliases: dict[str, int] = {}
        self.intended: int | None = None
        self.tagged = 0
        try:
            body = orjson.loads(self._path.read_bytes())
            self.pipeline = str(body["pipeline"])
            self.versions = {
                int(number): RegisteredVersion(
                    int(entry["mlflow_version"]), int(number), str(entry["digest"])
                )
                for number, entry in body["versions"].items()
            }
            self.owed = list(body["owed"])
            self.aliases = {str(a): int(n) for a, n in body.get("aliases", {}).items()}
            self.intended = body.get("intended")
            self.tagged = int(body.get("tagged", 0))
        except FileNotFoundError:
            self._write()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RegistryError(
                f"{self._path}: malformed ({error!r}); delete the file: it is built again from "
                "the registry"
            ) from error

    def add(self, version: RegisteredVersion, announcement: dict[str, Any]) -> None:
        """Remember a registration, and that it is still to be announced."""
        self.versions[version.snapshot_version] = version
        self.owed.append(announcement)
        self._write()

    def announced(self) -> None:
        """Forget the oldest owed announcement: it was sent."""
        del self.owed[0]
        self._write()

    def intend(self, champion: int) -> None:
        """Remember that `champion` is about to be moved, so that it is known for our own move."""
        self.intended = champion
        self._write()

    def aliased(self, aliases: dict[str, int]) -> None:
        """Remember where the aliases are."""
        if aliases != self.aliases or self.intended is not None:
            self.aliases, self.intended = aliases, None
            self._write()

    def tagged_to(self, at_ms: int) -> None:
        """Remember up to which decision the tags are written."""
        self.tagged = at_ms
        self._write()

    def snapshot_of(self, mlflow_version: int) -> int | None:
        """The indexer's number of a registered version."""
        found = (n for n, v in self.versions.items() if v.mlflow_version == mlflow_version)
        return next(found, None)

    def forget(self, number: int) -> None:
        """Drop a snapshot whose version was deleted."""
        del self.versions[number]
        self._write()

    def keep_only(self, digests: Collection[str]) -> None:
        """Drop what the registry does not hold any more."""
        kept = {n: v for n, v in self.versions.items() if v.digest in digests}
        if kept != self.versions:
            self.versions = kept
            self._write()

    def bring(self, number: int, download: Download) -> None:
        """Have a version on disk as it was published, from the registry where it has left.

        `download` takes MLflow's number, the directory to make and the digest that its manifest
        must have.

        Raises:
            RegistryError: if the registry holds another content than was published.
            SnapshotError: if what is on disk is not what was published.
            ManifestError: if it is damaged on disk.
        """
        directory = self._data_dir / snapshot_path(number)
        if not directory.is_dir():
            version, known = self.versions.get(number), published(self._data_dir)
            if version is None:
                raise RegistryError(
                    f"version {number} is neither on disk nor registered; choose one of those that "
                    "`sparc snapshots` lists"
                )
            digest = (known or {}).get(number, version.digest)
            download(version.mlflow_version, directory, digest)
            if known is not None and number not in known:  # it is older than the record
                record(self._data_dir, number, digest)
        require_published(self._data_dir, number, verify(directory, "snapshot").digest)

    def _write(self) -> None:
        body = {
            "pipeline": self.pipeline,
            "versions": {
                str(n): {"mlflow_version": v.mlflow_version, "digest": v.digest}
                for n, v in sorted(self.versions.items())
            },
            "owed": self.owed,
            "aliases": self.aliases,
            "intended": self.intended,
            "tagged": self.tagged,
        }
        write_atomically(self._path, orjson.dumps(body, option=orjson.OPT_INDENT_2))


def registered_versions(data_dir: Path) -> dict[int, int]:
    """Registered snapshots: the indexer's number -> MLflow's number; empty before the first.

    Raises:
        RegistryError: if the record is malformed.
    """
    if not ledger_path(data_dir).is_file():
        return {}
    return {n: v.mlflow_version for n, v in sorted(Ledger(data_dir).versions.items())}


def aliased_versions(data_dir: Path) -> set[int]:
    """Snapshots that an alias names, by the indexer's number.

    Raises:
        RegistryError: if the record is malformed.
    """
    if not ledger_path(data_dir).is_file():
        return set()
    ledger = Ledger(data_dir)
    found = {ledger.snapshot_of(number) for number in ledger.aliases.values()}
    return {number for number in found if number is not None}
