"""Log files of every format, as their publishers write them, made here."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

TODAY_MS = 1_750_000_000_000
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture
def now_ms() -> int:
    return TODAY_MS


@pytest.fixture
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("no ../shared/data beside the repository: real logs are not committed")
    return SHARED


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(text: str | bytes, name: str = "file", compress: bool = False) -> Path:
        content = text.encode() if isinstance(text, str) else text
        path = tmp_path / name
        path.write_bytes(gzip.compress(content) if compress else content)
        return path

    return write
