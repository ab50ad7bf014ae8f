"""What a pipeline writes is its user's alone: histories, snapshots, logs, and what they tell.

Every part sets the umask before it writes, so that files and directories, also those of the
programs that it starts, can be read by nobody else; a data directory that is older is closed.
"""

from __future__ import annotations

import os
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

UMASK = 0o077
OURS = (".sparc", "config.toml", "current.json", "status", "published.jsonl")
"""What shows that a directory is a pipeline's, and no other that was named by mistake."""


def keep_private(data_dir: Path) -> None:
    """Have everything that this process writes from now on readable by its user alone.

    A directory that holds something else than a pipeline's state keeps its permissions, and so
    does one that belongs to another user.
    """
    os.umask(UMASK)
    try:
        data_dir.mkdir(parents=True)
    except FileExistsError:
        if data_dir.stat().st_mode & 0o077 and any((data_dir / name).exists() for name in OURS):
            try:
                data_dir.chmod(0o700)
            except PermissionError:
                log.warning(
                    "the data directory belongs to another user, who decides who may read it",
                    data_dir=str(data_dir),
                )
