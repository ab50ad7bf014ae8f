"""A whole drain while the machine's clock is put back, and forward, by an hour."""

from __future__ import annotations

import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.test_pipeline import Run, check, eventually

pytestmark = [pytest.mark.end_to_end, pytest.mark.slow, pytest.mark.timeout(900)]

HOUR = 3600


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What gives a process a clock that can be set."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler on the PATH (Debian: apt-get install gcc)")
    made = tmp_path_factory.mktemp("clock") / "jumping_clock.so"
    source = Path(__file__).with_name("jumping_clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", made, source, "-ldl"], check=True)
    return made


@pytest.fixture
def run(jars: Path, tmp_path: Path) -> Iterator[Run]:
    started = Run(tmp_path / "state")
    yield started
    started.stop()


@pytest.mark.parametrize("jump", [-HOUR, HOUR])
def test_a_drain_ends_in_time_and_whole_although_the_clock_jumps(
    run: Run, library: Path, tmp_path: Path, jump: int
) -> None:
    offset = tmp_path / "offset"
    offset.write_bytes(struct.pack("=q", 0))
    run.start("--drain", LD_PRELOAD=str(library), JUMPING_CLOCK=str(offset))

    def said(part: str) -> float:
        return float(run.status(part)["updated_at"])

    eventually(lambda: run.status("train").get("trained_events", 0) > 500, run)
    with offset.open("r+b") as file:  # in place: it is mapped
        file.write(struct.pack("=q", jump))
    for part in ("train", "index", "serve"):
        eventually(lambda part=part: abs(said(part) - time.time() - jump) < HOUR / 2, run)  # type: ignore[misc]
    summary = run.summary()
    check(summary)
    assert summary["seconds"] < 400
