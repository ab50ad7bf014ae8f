"""What each part says of itself: one small JSON file per part, replaced about once a second.

The files are the only channel between the parts and whoever watches them, so a part that is
killed leaves its last word, and `sparc status` works whether or not anything runs. On a full disk
the last word takes the place of the one before it, which needs no room; a reader who comes just
then finds none. Whatever cannot be written, nobody ends for it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson

from deploy.monitoring import moment
from deploy.monitoring.moment import Moment
from streaming.durable_files import write_atomically
from streaming.secret import cleaned_facts

PARTS = ("replay", "stream", "train", "index", "register", "serve")
FRESH_SECONDS = 10.0
"""A status older than this is no sign of life."""


def reporter(data_dir: Path, part: str) -> Callable[[dict[str, Any]], None]:
    """The callback that a part reports through; adds `part`, `pid`, and when it was.

    `updated_at` (seconds since 1970) is for people, `clock` is what ages are measured by.
    """
    path = data_dir / "status" / f"{part}.json"

    def report(facts: dict[str, Any]) -> None:
        at = moment.now()
        said = {"part": part, "pid": os.getpid(), "updated_at": at.wall, "clock": at.to_json()}
        body = {**cleaned_facts(facts), **said}
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


def read_status(data_dir: Path, part: str) -> dict[str, Any]:
    """The last report of a part; empty where it never reported."""
    try:
        status = orjson.loads((data_dir / "status" / f"{part}.json").read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return status if isinstance(status, dict) else {}


def read_statuses(data_dir: Path) -> dict[str, dict[str, Any]]:
    """The last report of every part."""
    return {part: read_status(data_dir, part) for part in PARTS}


def reported_at(status: Mapping[str, Any]) -> Moment | None:
    """When a part reported last; None where it never did."""
    try:
        return Moment.from_json(status["clock"])
    except (KeyError, ValueError):
        return None


def age_seconds(status: Mapping[str, Any], now: Moment) -> float | None:
    """How long ago a part reported last; None where it never did."""
    at = reported_at(status)
    return None if at is None else now.since(at)


def is_alive(status: Mapping[str, Any], now: Moment) -> bool:
    """Whether a part reported within `FRESH_SECONDS` before `now`.

    A report from the future is a sign of life only as far as the clocks of two machines differ.
    """
    age = age_seconds(status, now)
    return age is not None and abs(age) < FRESH_SECONDS
