"""What the indexer has done with versions and handovers, as its store keeps it."""

from __future__ import annotations

from indexer.indexing.item_store import ItemStore


class VersionRecord:
    """The numbers of versions and handovers in a store; holds nothing itself."""

    def __init__(self, store: ItemStore) -> None:
        self._store = store

    def reserve_version(self, at_least: int) -> int:
        """A version number that was never used before, recorded before anything is built."""
        version = max(self._store.meta("version") or 0, at_least - 1) + 1
        self._store.set_meta({"version": version})
        return version

    def newest(self, what: str) -> int:
        """The highest "version" or "handover" that was ever served, 0 for none."""
        return self._store.meta(f"newest_{what}") or 0

    def commit_version(self, version: int, handover: int) -> None:
        """Note that a version is served and which handover it was made of; twice is once."""
        noted = {
            f"newest_{what}": max(self.newest(what), number)
            for what, number in (("version", version), ("handover", handover))
        }
        if version > self.newest("version"):
            noted["published"] = self.snapshots_published + 1
        self._store.set_meta(noted)

    @property
    def snapshots_published(self) -> int:
        """How many versions were ever served."""
        return self._store.meta("published") or 0

    def refuse_handover(self, number: int, reason: str) -> None:
        """Remember that a handover is not to be tried again."""
        self._store.set_meta({f"refused_handover/{number}": reason})

    def refused_handover(self, number: int) -> str | None:
        """Why a handover was refused, None if it was not."""
        reason: str | None = self._store.meta(f"refused_handover/{number}")
        return reason

    def count_refused_handovers(self) -> int:
        """How many handovers were refused."""
        return self._store.count_meta("refused_handover/")
