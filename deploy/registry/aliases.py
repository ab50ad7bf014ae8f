"""The aliases of the registered model follow what is served, and the service follows the aliases.

`champion` is the version that answers, `previous` the one before it, `challenger` the newest one
built where that is another. The registrar moves them after the switch `served.json`. Where a
person moves `champion` in the registry, the switch follows, and the version is pinned: a person's
word stands until it is released with `sparc promote`.

Whose move it was is told by the ledger: it holds where the registrar last put `champion`, and,
while it is being moved, where to. Any other place is somebody else's choice.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import structlog

from deploy.release.decisions import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    Decision,
    decide,
    read_served,
)
from deploy.release.errors import RegistryError
from deploy.release.ledger import Ledger
from indexer.errors import SnapshotError
from indexer.snapshots.pointer import read_pointer
from model.artifacts.manifest import ManifestError

log = structlog.get_logger(__name__)


class AliasHolder(Protocol):
    """What the keeper asks of a registry."""

    def aliased(self, alias: str) -> int | None:
        """MLflow's number of the version that `alias` names, or None."""

    def set_alias(self, alias: str, mlflow_version: int | None) -> None:
        """Make `alias` name a version, or nothing."""

    def download(self, mlflow_version: int, directory: Path, digest: str) -> None:
        """Bring the snapshot of a version back as `directory`, if its manifest has this digest."""


class AliasKeeper:
    """Keeps the aliases of one data directory's versions; `alias_seconds` between two looks."""

    def __init__(
        self,
        data_dir: Path,
        holder: AliasHolder,
        ledger: Ledger,
        alias_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._data_dir = data_dir
        self._holder = holder
        self._ledger = ledger
        self._every = alias_seconds
        self._clock = clock
        self._looked = float("-inf")
        self._foreign: int | None = None
        self._settled = False

    def begin(self) -> None:
        """The registry may be another one than before: look at once and set everything anew."""
        self._looked, self._settled = float("-inf"), False

    def step(self) -> bool:
        """Follow a person's move, or bring the aliases up to date; False where nothing was due."""
        due = not self.settled
        if due or self._clock() - self._looked >= self._every:
            self._looked = self._clock()
            if self._follow():
                return True
        if self.settled:
            return False
        self._set(self.wanted())
        return True

    @property
    def settled(self) -> bool:
        """Whether the aliases are where they should be."""
        return self._settled and self.wanted() == self._ledger.aliases

    def wanted(self) -> dict[str, int]:
        """Alias -> MLflow's number, for the versions that are registered."""
        served, pointer = read_served(self._data_dir), read_pointer(self._data_dir)
        serving = served.version if served else pointer.version if pointer else None
        newest = max(self._ledger.versions, default=None)
        places = {
            CHAMPION: serving,
            PREVIOUS: served.previous if served else None,
            CHALLENGER: newest if newest != serving else None,
        }
        versions = self._ledger.versions
        found = {a: versions[n].mlflow_version for a, n in places.items() if n in versions}
        if served is None and CHAMPION in found:  # no service decides: the one before is previous
            before = self._ledger.aliases.get(CHAMPION)
            kept = self._ledger.aliases.get(PREVIOUS)
            previous = before if before != found[CHAMPION] else kept
            if previous is not None:
                found[PREVIOUS] = previous
        return found

    def _set(self, wanted: dict[str, int]) -> None:
        # `previous` first: after a crash in between, doing it again ends in the same state.
        for alias in (PREVIOUS, CHAMPION, CHALLENGER):
            if alias == CHAMPION and alias in wanted:
                self._ledger.intend(wanted[alias])
            if alias in wanted or alias == CHALLENGER or alias in self._ledger.aliases:
                if alias == CHAMPION and alias not in wanted:
                    continue  # not registered yet: better the old one than none
                self._holder.set_alias(alias, wanted.get(alias))
        self._ledger.aliased(wanted)
        self._settled = True
        log.info("aliases set", **wanted)

    def _follow(self) -> bool:
        """Serve what a person made champion; whether there was such a move."""
        actual = self._holder.aliased(CHAMPION)
        ours = self._ledger.aliases.get(CHAMPION)
        if actual is None and ours is not None:
            self._settled = False  # removed, or the registry began anew
            return False
        if actual is None or ours is None or actual in (ours, self._ledger.intended):
            return False
        number = self._ledger.snapshot_of(actual)
        if number is None:
            if actual != self._foreign:
                log.error(
                    "champion was moved to a version that this pipeline did not make; the service "
                    "stays where it is",
                    mlflow_version=actual,
                )
            self._foreign = actual
            return False
        try:
            self._ledger.bring(number, self._holder.download)
        except (RegistryError, SnapshotError, ManifestError) as error:
            if actual != self._foreign:
                log.error(
                    "champion was moved to a version that is not served; the service stays where "
                    "it is",
                    mlflow_version=actual,
                    reason=str(error),
                )
            self._foreign = actual
            return False
        reason = f"`champion` was moved to version {actual} in the registry"
        before = read_pointer(self._data_dir)
        decision = Decision(number, "pinned", "registry", reason, before.version if before else 0)
        decide(self._data_dir, decision)
        self._ledger.aliased({**self._ledger.aliases, CHAMPION: actual})
        self._settled = False
        return True
