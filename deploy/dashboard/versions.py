"""Versions loaded to be looked at, beside the one that serves: a few, the last used ones."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

from deploy.service.snapshot_follower import SnapshotFollower
from indexer.errors import SnapshotError
from indexer.search.retriever import Retriever
from indexer.snapshots.pointer import snapshot_path

KEPT = 2


class LoadedVersions:
    """Loads versions from disk; used by one thread.

    The one that serves costs nothing, another what differs from it.
    """

    def __init__(self, data_dir: Path, follower: SnapshotFollower) -> None:
        self._data_dir = data_dir
        self._follower = follower
        self._retrievers: OrderedDict[int, Retriever] = OrderedDict()

    def get(self, version: int) -> Retriever:
        """A version, able to answer.

        Raises:
            SnapshotError: if it is not on disk any more, or damaged.
        """
        serving = self._follower.retriever
        if serving is not None and serving.version == version:
            return serving
        if version not in self._retrievers:
            directory = self._data_dir / snapshot_path(version)
            if not directory.is_dir():
                raise SnapshotError(
                    f"version {version} is not on disk any more; it is in the registry: "
                    f"`sparc promote {version} --pin` brings it back"
                )
            self._retrievers[version] = Retriever.of_version(
                self._data_dir, version, self._follower.search, serving, self._follower.verified
            )
        retriever = self._retrievers[version].with_columns(self._follower.columns)
        self._retrievers[version] = retriever
        self._retrievers.move_to_end(version)
        while len(self._retrievers) > KEPT:
            self._retrievers.popitem(last=False)
        return retriever
