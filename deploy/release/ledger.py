"""The model registry as configured, and what of this data directory it holds.

`registered.json` remembers which snapshots are registered: the indexer's retention may delete
those and no others, and the announcements on Kafka that are still owed survive a crash. The
registry itself stays the truth: an entry whose version is gone from it is dropped at start.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from deploy.release.errors import RegistryError
from indexer.snapshots.pointer import snapshot_path
from indexer.snapshots.published import published, record, require_published
from model.artifacts.manifest import verify
from streaming.durable_files import write_atomically

Download = Callable[[int, Path, str], None]


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
