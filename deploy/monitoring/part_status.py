"""What each part says of itself: one small JSON file per part, replaced about once a second.

The files are the only channel between the parts and whoever watches them, so a part that is
killed leaves its last word, and `sparc status` works whether or not anything runs. On a full disk
the last word takes the place of the one before it, which needs no room; a reader who comes just
then finds none. Whatever cannot be written, nobody ends for it.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import orjson
import structlog

from deploy.monitoring import moment
from deploy.monitoring.moment import Moment
from streaming.durable_files import write_atomically
from streaming.secret import cleaned_facts
from streaming.statuses import (
    IndexerStatus,
    PartStatus,
    RegistrarStatus,
    ReplayStatus,
    Report,
    ServiceStatus,
    StreamStatus,
    TrainerStatus,
)

log = structlog.get_logger(__name__)

S = TypeVar("S", bound=PartStatus)

FRESH_SECONDS = 10.0
"""A status older than this is no sign of life."""


@dataclass(frozen=True)
class Statuses:
    """The last report of every part, in the order of the flow."""

    replay: ReplayStatus = ReplayStatus()
    stream: StreamStatus = StreamStatus()
    train: TrainerStatus = TrainerStatus()
    index: IndexerStatus = IndexerStatus()
    register: RegistrarStatus = RegistrarStatus()
    serve: ServiceStatus = ServiceStatus()

    def of(self, part: str) -> PartStatus:
        """That of a part by its name; one that says nothing for what is no part."""
        found: PartStatus = getattr(self, part) if part in PARTS else PartStatus()
        return found

    def all(self) -> dict[str, PartStatus]:
        """By the names of the parts."""
        return {part: self.of(part) for part in PARTS}


TYPES: dict[str, type[PartStatus]] = {name: type(said) for name, said in vars(Statuses()).items()}
PARTS = tuple(TYPES)


def reporter(data_dir: Path, part: str) -> Report:
    """The callback that a part reports through; adds `part`, `pid`, and when it was.

    `updated_at` (seconds since 1970) is for people, `clock` is what ages are measured by.
    """
    path = data_dir / "status" / f"{part}.json"
    version = TYPES.get(part, PartStatus).VERSION

    def report(status: PartStatus) -> None:
        at = moment.now()
        said = {"part": part, "pid": os.getpid(), "updated_at": at.wall, "clock": at.to_json()}
        body = {**cleaned_facts(status.to_json()), **said, "schema_version": version}
        write_last_word(path, orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY))

    return report


def write_last_word(path: Path, content: bytes) -> None:
    """Replace a small JSON file; where that cannot be, write over it, or leave it as it is."""
    try:
        write_atomically(path, content, sync=False)
    except OSError:
        with contextlib.suppress(OSError), path.open("r+b") as file:
            # JSON may be followed by blanks; a file that is cut would give its room away.
            file.write(content.ljust(path.stat().st_size))


def read_status(data_dir: Path, kind: type[S], part: str = "") -> S:
    """The last report of a part; where it never reported, one that says nothing.

    Args:
        data_dir: of the pipeline.
        kind: the type of the report.
        part: its name, where that is not the type's.
    """
    part = part or kind.PART
    try:
        body = orjson.loads((data_dir / "status" / f"{part}.json").read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return kind()
    status = kind.read(body) if isinstance(body, dict) else kind()
    if words := status.other_version:
        _note(part, words)
    return status


@cache
def _note(part: str, words: str) -> None:
    log.warning("report of another version", part=part, what=words)


def read_statuses(data_dir: Path) -> Statuses:
    """The last report of every part."""
    found: dict[str, Any] = {part: read_status(data_dir, kind) for part, kind in TYPES.items()}
    return Statuses(**found)


def reported_at(status: PartStatus) -> Moment | None:
    """When a part reported last; None where it never did."""
    try:
        return Moment.from_json(status.clock or {})
    except ValueError:
        return None


def age_seconds(status: PartStatus, now: Moment) -> float | None:
    """How long ago a part reported last; None where it never did."""
    at = reported_at(status)
    return None if at is None else now.since(at)


def is_alive(status: PartStatus, now: Moment) -> bool:
    """Whether a part reported within `FRESH_SECONDS` before `now`.

    A report from the future is a sign of life only as far as the clocks of two machines differ.
    """
    age = age_seconds(status, now)
    return age is not None and abs(age) < FRESH_SECONDS
