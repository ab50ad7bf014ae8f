"""Which snapshot is served, the champion, and every decision that led to it.

`current.json` is the indexer's: the newest version that is built. `served.json` is the switch of
the service: the version that answers, the one before it, and whether a person pinned it. Where it
is absent the newest version is served. `decisions.jsonl` keeps what was decided about each version
and why, oldest first, one JSON object per line, bounded.

A decision is made by the judge (the service), by a person through `sparc promote` and
`sparc rollback`, or by a person who moved an alias in the registry. All of them go through
`decide`, which holds a lock, so none is lost. The line is written before the switch: after a crash
in between the decision is made again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson
import structlog
from filelock import FileLock

from indexer.errors import SnapshotError
from streaming.durable_files import sync_path, write_atomically

log = structlog.get_logger(__name__)

SERVED = "served.json"
DECISIONS = "decisions.jsonl"
CHAMPION, PREVIOUS, CHALLENGER = "champion", "previous", "challenger"
"""Names of the version that answers, the one before it, and the newest where it is another."""
KEPT_LINES = 5_000
"""The file of decisions is cut to so many when it holds twice as many."""

Action = Literal["first", "promoted", "kept", "superseded", "pinned", "released"]
"""What happened to a version: the first one was served as it was; `promoted` and `pinned` began to
serve; `kept` and `superseded` did not; `released` goes on serving, but is no longer pinned."""

SERVES: frozenset[str] = frozenset({"first", "promoted", "pinned", "released"})


@dataclass(frozen=True)
class ServingSwitch:
    """The switch.

    Attributes:
        version: the indexer's number of the version to answer from.
        previous: the version before it, None for the first.
        pinned: a person chose it; nothing is promoted until it is released.
        at_ms: when it was decided.
    """

    version: int
    previous: int | None = None
    pinned: bool = False
    at_ms: int = 0


@dataclass(frozen=True)
class Decision:
    """What was decided about a version.

    Attributes:
        version: the version.
        action: see `Action`.
        by: "judge", "person" or "registry".
        reason: in words.
        before: the version served until then.
        evidence: figures of the comparison, where there was one.
        at_ms: wall clock, filled in by `decide`.
    """

    version: int
    action: Action
    by: str
    reason: str
    before: int | None = None
    evidence: dict[str, Any] = field(default_factory=dict)
    at_ms: int = 0


def read_served(data_dir: Path) -> ServingSwitch | None:
    """The switch of a data directory, None where nothing was decided yet.

    Raises:
        SnapshotError: if it is malformed.
    """
    path = data_dir / SERVED
    try:
        body = orjson.loads(path.read_bytes())
        previous = body["previous"]
        return ServingSwitch(
            int(body["version"]),
            None if previous is None else int(previous),
            bool(body["pinned"]),
            int(body["at_ms"]),
        )
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SnapshotError(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise SnapshotError(
            f"{path}: malformed ({error!r}); delete the file, and the newest snapshot is served"
        ) from error


def decide(
    data_dir: Path,
    decision: Decision,
    *,
    if_served: int | None = None,
    clock: Callable[[], float] = time.time,
) -> bool:
    """Record a decision and, where its action serves a version, move the switch.

    Args:
        data_dir: of the pipeline.
        decision: `before` and `at_ms` are filled in.
        if_served: decide only while this version is served and not pinned; a person may have moved
            the switch while the judge was at work.
        clock: wall clock in seconds.

    Returns:
        Whether it was decided.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(data_dir / f".{SERVED}.lock", fallback_to_soft=False):
        served = read_served(data_dir)
        stale = served is not None and (served.version != if_served or served.pinned)
        if if_served is not None and stale:
            return False
        made = decisions(data_dir)
        # Rising, so that a reader can remember how far it has read.
        at_ms = max(int(clock() * 1000), made[-1].at_ms + 1 if made else 0)
        before = served.version if served else decision.before
        line = asdict(decision) | {"before": before, "at_ms": at_ms}
        _append(data_dir / DECISIONS, orjson.dumps(line))
        if decision.action in SERVES:
            moved = served is not None and served.version != decision.version
            previous = before if moved or served is None else served.previous
            body = ServingSwitch(decision.version, previous, decision.action == "pinned", at_ms)
            write_atomically(data_dir / SERVED, orjson.dumps(asdict(body)))
        log.info(decision.action, **{k: v for k, v in line.items() if k != "action"})
        return True


def decisions(data_dir: Path) -> list[Decision]:
    """Everything that was decided, oldest first; a line that a crash cut off is left out."""
    try:
        lines = (data_dir / DECISIONS).read_bytes().splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        try:
            found.append(Decision(**orjson.loads(line)))
        except (ValueError, TypeError):
            continue
    return found


def served_versions(data_dir: Path) -> set[int]:
    """The version that serves and the one before it: neither may be removed from disk."""
    try:
        served = read_served(data_dir)
    except SnapshotError as error:
        log.error("served version unknown", reason=str(error))
        return set()
    return {v for v in (served.version, served.previous) if v is not None} if served else set()


def _append(path: Path, line: bytes) -> None:
    text = b""
    if path.exists():
        text = path.read_bytes()
        if text and not text.endswith(b"\n"):  # a crash cut the last line off
            text = text[: text.rfind(b"\n") + 1]
            write_atomically(path, text)
        if text.count(b"\n") >= 2 * KEPT_LINES:
            write_atomically(path, b"".join(text.splitlines(keepends=True)[-KEPT_LINES:]))
    with path.open("ab") as file:
        file.write(line + b"\n")
        file.flush()
        os.fsync(file.fileno())
    sync_path(path.parent)
