"""A person moves what is served: `sparc promote` and `sparc rollback`, and names for versions.

A version is named by the indexer's number (`7`), by the registry's (`v7`), by an alias
(`champion`, `previous`, `challenger`), or as `newest`. One that is not on disk any more is brought
back from the registry.
"""

from __future__ import annotations

import re
from pathlib import Path

from deploy.release.decisions import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    Decision,
    decide,
    read_served,
)
from deploy.release.ledger import Download, Ledger, registered_versions
from indexer.snapshots.pointer import read_pointer
from indexer.snapshots.snapshot_reading import versions

NEWEST = "newest"
_NUMBER = re.compile(r"(v?)(\d{1,9})")


class SwitchError(ValueError):
    """A version is named that there is not, or there is none to go back to."""


def resolve(data_dir: Path, name: str) -> int:
    """The indexer's number of a version.

    Raises:
        SwitchError: if nothing bears the name; the message lists what there is.
    """
    served, pointer = read_served(data_dir), read_pointer(data_dir)
    serving = served.version if served else pointer.version if pointer else None
    registered, on_disk = registered_versions(data_dir), versions(data_dir)
    known = sorted({*registered, *on_disk})
    newest = max(known, default=None)
    words = {
        CHAMPION: serving,
        PREVIOUS: served.previous if served else None,
        CHALLENGER: newest if newest != serving else None,
        NEWEST: newest,
    }
    if name in words:
        if (found := words[name]) is None:
            raise SwitchError(f"there is no {name} version; `sparc snapshots` lists what there is")
        return found
    if match := _NUMBER.fullmatch(name):
        number = int(match[2])
        if match[1]:
            number = next((n for n, v in registered.items() if v == number), -1)
        if number in known:
            return number
    shown = ", ".join(map(str, known[-8:])) or "none yet"
    raise SwitchError(
        f"version {name!r} is unknown; there are {shown}, and the names {', '.join(words)}"
    )


def promote(
    data_dir: Path, name: str, download: Download, *, pin: bool, reason: str = ""
) -> Decision:
    """Serve a version; with `pin` nothing is promoted until another one is promoted by hand.

    Args:
        data_dir: of the pipeline.
        name: of the version.
        download: brings it back where it is not on disk any more, see `Ledger.bring`.
        pin: whether it is pinned.
        reason: why, where a person gives one.

    Raises:
        SwitchError: for an unknown version.
        ManifestError: if it is damaged on disk.
        SnapshotError: if what is on disk is not what was published.
        RuntimeError: if it is not on disk and `download` does not give it back, or gives back
            something else than was published.
    """
    number = resolve(data_dir, name)
    Ledger(data_dir).bring(number, download)
    pointer = read_pointer(data_dir)
    decision = Decision(
        number,
        "pinned" if pin else "promoted",
        "person",
        reason or ("chosen and pinned by a person" if pin else "chosen by a person"),
        pointer.version if pointer else None,
    )
    decide(data_dir, decision)
    return decision


def roll_back(data_dir: Path, name: str | None, download: Download) -> Decision:
    """Serve the version before (or the named one) and pin it.

    Raises:
        SwitchError: if there is none before, or for an unknown version.
        ManifestError, SnapshotError, RuntimeError: as `promote`.
    """
    if name is None and read_served(data_dir) is None:
        older = versions(data_dir)[:-1]
        if not older:
            raise SwitchError("there is no version before the served one")
        name = str(older[-1])
    return promote(data_dir, name or PREVIOUS, download, pin=True, reason="rolled back by a person")
