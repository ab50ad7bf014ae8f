"""Snapshots of a small real model, made once for the tests of this room."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy.snapshot_maker import Shelf, make_snapshots


@pytest.fixture(scope="session")
def made_snapshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory that holds versions 1 to 4."""
    directory = tmp_path_factory.mktemp("made")
    make_snapshots(directory, 4)
    return directory


@pytest.fixture
def shelf(tmp_path: Path, made_snapshots: Path) -> Shelf:
    """The data directory `tmp_path`, empty at first."""
    return Shelf(tmp_path, made_snapshots)
