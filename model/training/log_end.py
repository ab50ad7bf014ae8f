"""Where the log of a drain ends: what tells a repeatable trainer that nothing will follow.

    <data>/trainer/log_end.json   partition of `sequences` -> offset after the last of the log

A micro-batch that is not full waits for more. How long a trainer should wait, a clock could say;
but then what is learnt together would depend on how quickly records arrive. Whoever follows the
log, `sparc up --drain`, knows when all of it has been written, and notes it here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import orjson

from streaming.durable_files import write_atomically


def _path(data_dir: Path) -> Path:
    return data_dir / "trainer" / "log_end.json"


def write_log_end(data_dir: Path, ends: Mapping[int, int]) -> None:
    """Note the end of each partition."""
    body = {str(partition): end for partition, end in sorted(ends.items())}
    write_atomically(_path(data_dir), orjson.dumps(body))


def forget_log_end(data_dir: Path) -> None:
    """A log begins, or goes on."""
    _path(data_dir).unlink(missing_ok=True)


def read_log_end(data_dir: Path) -> dict[int, int]:
    """The end of each partition; empty while nobody knows."""
    try:
        return {int(p): int(end) for p, end in orjson.loads(_path(data_dir).read_bytes()).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
