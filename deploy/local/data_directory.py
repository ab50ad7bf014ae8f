"""The data directory of a pipeline: one per log, and one pipeline in it at a time."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from deploy import settings as configuration
from deploy.private import keep_private
from deploy.usable_path import require_text
from indexer.snapshots.pointer import POINTER
from streaming.durable_files import remove_partial, write_atomically
from streaming.job.record import NO_STATE, JobRecord, RecordFile
from streaming.sole_process import sole_process

log = structlog.get_logger(__name__)

LEAST_FREE_BYTES = 1 << 30
LEFT_SECONDS = 3600.0
"""A file that has had its temporary name for so long was left by a process that was killed."""
LONGEST_NAME = 200
"""Bytes of a log's own name in that of its data directory; file systems take 255."""


class UpError(ValueError):
    """The pipeline cannot be started like this; the message says what to change."""


def log_name(events: Path | None, dataset: str | None) -> str:
    """Name of the data directory of a log, so that each log has one of its own.

    >>> log_name(None, "amazon-2014-beauty")
    'amazon-2014-beauty'
    >>> log_name(None, None)
    'synthetic'
    """
    if events is not None:
        path = events.resolve()
        require_text(path)
        digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
        words = f"{path.parent.name}-{path.name.split('.')[0]}"
        return f"{_shortened(words)}-{digest}"
    return dataset or "synthetic"


def _shortened(name: str) -> str:
    """A name that a directory can have: of a few hundred bytes, and as `usable_path` wants it."""
    plain = "".join("_" if c < " " or c in "\\\x7f" else c for c in name)
    return plain.encode()[:LONGEST_NAME].decode(errors="ignore")


def claim(data_dir: Path, *, fresh: bool) -> None:
    """Make the data directory, empty it when asked to, and mark it as ours.

    Raises:
        UpError: if it holds something else, or the disk has no room.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    ours = (data_dir / configuration.MARK).is_file()
    content = [p for p in data_dir.iterdir() if p.name != ".lock"]
    if content and not ours:
        raise UpError(
            f"{data_dir} holds files that are not of a pipeline; choose another directory with "
            "--data-dir"
        )
    if fresh:
        for path in content:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        # Checkpoints and topics may lie elsewhere, and be those of before.
        RecordFile(data_dir).write(JobRecord().going_on_from(NO_STATE, ()))
    if shutil.disk_usage(data_dir).free < LEAST_FREE_BYTES:
        raise UpError(
            f"the disk is full: less than {LEAST_FREE_BYTES >> 30} GiB is free in {data_dir}; free "
            "some space, or choose another disk with --data-dir"
            + (
                f". Meanwhile `sparc serve --data-dir {data_dir}` answers from the last version"
                if (data_dir / POINTER).is_file()
                else ""
            )
        )
    write_atomically(data_dir / configuration.MARK, b"sparc-stream data directory\n")
    keep_private(data_dir)
    # What a part publishes it tidies up itself; these are of small files that many parts write.
    for folder in (data_dir, *(path for path in data_dir.iterdir() if path.is_dir())):
        remove_partial(folder, older_than_s=LEFT_SECONDS)


def point_latest(data_dir: Path) -> None:
    """Make `data/latest` lead to this data directory, for `sparc status` and the like.

    A checkout that may not be written to has none: those commands are given the data directory.
    """
    latest = configuration.LATEST
    partial = latest.with_name(f".latest-{os.getpid()}")
    try:
        latest.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        partial.symlink_to(data_dir.resolve())
        partial.replace(latest)
    except OSError as error:
        log.warning("latest_not_linked", path=str(latest), reason=error.strerror)


@contextmanager
def only_one(data_dir: Path) -> Iterator[None]:
    """Hold the data directory for this process.

    Raises:
        UpError: if another pipeline runs on it.
    """
    with sole_process(data_dir / ".lock") as other:
        if other:
            raise UpError(
                f"{data_dir} is in use by the pipeline with pid {other}; stop it, or choose "
                "another directory with --data-dir"
            )
        yield
