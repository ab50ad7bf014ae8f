"""What the indexer refuses, as types."""

from __future__ import annotations


class IndexerError(ValueError):
    """Base of everything the indexer refuses; the message says what, where and what to do."""


class SnapshotError(IndexerError):
    """A snapshot, a pointer or a list on disk is corrupt, foreign or inconsistent."""
