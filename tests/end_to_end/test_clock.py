"""A whole drain while the machine's clock is put back, and forward, by an hour."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.test_pipeline import Run, check, eventually

pytestmark = [pytest.mark.end_to_end, pytest.mark.slow, pytest.mark.timeout(900)]

HOUR = 3600


def library() -> Path:
    """The one of libfaketime that is safe with threads."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        pytest.skip("no libfaketime (Debian: apt-get install faketime)")
    return found[0]


@pytest.fixture
def run(jars: Path, tmp_path: Path) -> Iterator[Run]:
    started = Run(tmp_path / "state")
    yield started
    started.stop()


@pytest.mark.parametrize("jump", [-HOUR, HOUR])
def test_a_drain_ends_in_time_and_whole_although_the_clock_jumps(
    run: Run, tmp_path: Path, jump: int
) -> None:
    offset = tmp_path / "offset"
    offset.write_text("+0")
    run.start(
        "--drain",
        LD_PRELOAD=str(library()),
        FAKETIME_TIMESTAMP_FILE=str(offset),
        FAKETIME_CACHE_DURATION="1",
        # The kernel's monotonic clock is never set; libfaketime would move that, too.
        DONT_FAKE_MONOTONIC="1",
        FAKETIME_DONT_FAKE_MONOTONIC="1",
    )

    def said(part: str) -> dict[str, Any]:
        return run.status(part)

    eventually(lambda: said("train").get("trained_events", 0) > 500, run)
    before = said("train")["updated_at"]
    offset.write_text(f"{jump:+d}")
    eventually(lambda: abs(said("train")["updated_at"] - before - jump) < HOUR / 2, run)
    summary = run.summary()
    check(summary)
    assert summary["seconds"] < 400
