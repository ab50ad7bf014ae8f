"""When the indexer rebuilds lists, and what it keeps."""

from __future__ import annotations

from dataclasses import dataclass

from indexer.errors import IndexerError


@dataclass(frozen=True)
class IndexerConfig:
    """When lists are rebuilt, and what is kept.

    Attributes:
        drift_threshold: drift of a code (centroid movement in radii + churn) above which its list
            is rebuilt.
        drift_rebuilds: lists built in one version for drift alone, the most drifted by traffic
            first; further ones are shared, which changes no answer beyond the tolerance.
        vector_tolerance: how far an item's new vector may be from the one in its list, as a share
            of the root mean square norm, for the list to be shared. 0: bit-equal lists only, so
            that the index is, byte for byte, the one built from scratch.
        max_backlog: with more handovers waiting than this the newest is taken, the others are
            skipped.
        max_appended: with more appended files than this they are merged into one.
        keep_versions: snapshots that stay on disk, besides the protected ones.
    """

    drift_threshold: float = 0.1
    drift_rebuilds: int = 16
    vector_tolerance: float = 0.001
    max_backlog: int = 3
    max_appended: int = 16
    keep_versions: int = 8

    def __post_init__(self) -> None:
        for name in ("drift_threshold", "vector_tolerance"):
            if not getattr(self, name) >= 0:
                raise IndexerError(f"indexer.{name} is {getattr(self, name)}; use 0 or more")
        for name in ("max_backlog", "max_appended", "keep_versions", "drift_rebuilds"):
            if not getattr(self, name) >= 1:
                raise IndexerError(f"indexer.{name} is {getattr(self, name)}; use 1 or more")
