"""What each part says of itself: one small JSON file per part, replaced about once a second.

The files are the only channel between the parts and whoever watches them, so a part that is
killed leaves its last word, and `sparc status` works whether or not anything runs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from model.manifest import write_atomically

PARTS = ("replay", "stream", "train", "index", "register", "serve")
FRESH_SECONDS = 10.0
"""A status older than this is no sign of life."""


def reporter(data_dir: Path, part: str) -> Callable[[dict[str, Any]], None]:
    """The callback that a part reports through; adds `part`, `pid` and `updated_at` (seconds)."""
    path = data_dir / "status" / f"{part}.json"

    def report(facts: dict[str, Any]) -> None:
        body = {**facts, "part": part, "pid": os.getpid(), "updated_at": time.time()}
        write_atomically(path, orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY), sync=False)

    return report


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


def is_alive(status: dict[str, Any], now: float) -> bool:
    """Whether a part reported within `FRESH_SECONDS` before `now` (seconds)."""
    return now - float(status.get("updated_at", 0.0)) < FRESH_SECONDS
