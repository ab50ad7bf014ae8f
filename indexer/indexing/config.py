"""When the indexer rebuilds lists, and what it keeps."""

from __future__ import annotations

from dataclasses import dataclass

from indexer.errors import IndexerError


@dataclass(frozen=True)
class IndexerConfig:
    """When lists are rebuilt, and what is kept.

    Attributes:
        drift_threshold: drift of a code (centroid movement in radii + churn) above which its list
            is written anew.
        rebuild_rows: rows of all lists that one version writes anew at most (and no more than a
            quarter of the catalogue; but always one list, and all that have doubled), those that
            have changed or drifted most first; further lists wait, which changes no answer.
        max_backlog: with more handovers waiting than this the newest is taken, the others are
            skipped.
        max_appended: with more appended files than this they are merged into one.
        keep_versions: snapshots that stay on disk, besides the protected ones.
    """

    drift_threshold: float = 0.1
    rebuild_rows: int = 65_536
    max_backlog: int = 3
    max_appended: int = 16
    keep_versions: int = 8

    def __post_init__(self) -> None:
        if not self.drift_threshold >= 0:
            raise IndexerError(f"indexer.drift_threshold is {self.drift_threshold}; use 0 or more")
        for name in ("max_backlog", "max_appended", "keep_versions", "rebuild_rows"):
            if not getattr(self, name) >= 1:
                raise IndexerError(f"indexer.{name} is {getattr(self, name)}; use 1 or more")
