"""`current.json`: which snapshot is served, and what was appended to it since.

    {"version": 7, "path": "snapshots/00000007", "digest": SHA-256 of its manifest,
     "appended": [{"file": "appended/00000007-0001.arrow", "sha256": ..., "position": {...}}],
     "published_at": ms}

The file is replaced in one step, so a reader sees the old state or the new one. Paths are
relative to the data directory and of these two forms only. `position` says up to which offset of
each partition of `items` (partition -> next offset) the appended files cover the topic.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from indexer.errors import SnapshotError
from streaming.durable_files import write_atomically

POINTER = "current.json"
SNAPSHOTS = "snapshots"
APPENDED = "appended"
_SNAPSHOT = re.compile(rf"{SNAPSHOTS}/(\d{{8}})")
_APPENDED = re.compile(rf"{APPENDED}/(\d{{8}})-(\d{{4,}})\.arrow")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Appended:
    """A file of items that were listed after the snapshot was built."""

    file: str
    sha256: str
    position: dict[int, int]

    @property
    def number(self) -> int:
        """Its number among those of its version, from 1."""
        return int(self.file.rsplit("-", 1)[1].removesuffix(".arrow"))


@dataclass(frozen=True)
class Pointer:
    """What is served; `published_at` in ms."""

    version: int
    path: str
    digest: str
    appended: tuple[Appended, ...]
    published_at: int


def positions(value: Any) -> dict[int, int]:
    """Partition -> offset from its JSON form; empty where there is none."""
    return {int(p): int(o) for p, o in value.items()} if isinstance(value, dict) else {}


def snapshot_path(version: int) -> str:
    """Where a version lies, relative to the data directory."""
    return f"{SNAPSHOTS}/{version:08d}"


def appended_path(version: int, number: int) -> str:
    """Where the `number`-th file appended to a version lies, relative to the data directory."""
    return f"{APPENDED}/{version:08d}-{number:04d}.arrow"


def read_pointer(data_dir: Path) -> Pointer | None:
    """The pointer of a data directory, None before the first snapshot.

    Raises:
        SnapshotError: if it is malformed, or names a path outside the data directory.
    """
    path = data_dir / POINTER
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SnapshotError(f"{path}: {error.strerror}") from error
    try:
        body = orjson.loads(raw)
        pointer = Pointer(
            int(body["version"]),
            str(body["path"]),
            str(body["digest"]),
            tuple(
                Appended(
                    str(one["file"]),
                    str(one["sha256"]),
                    {int(p): int(o) for p, o in one["position"].items()},
                )
                for one in body["appended"]
            ),
            int(body["published_at"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SnapshotError(f"{path}: malformed pointer ({error!r})") from error
    _check(path, pointer)
    return pointer


def _check(path: Path, pointer: Pointer) -> None:
    if not (match := _SNAPSHOT.fullmatch(pointer.path)) or int(match[1]) != pointer.version:
        raise SnapshotError(f"{path}: {pointer.path!r} is no snapshot of {pointer.version}")
    digests = [pointer.digest]
    for one in pointer.appended:
        if not (match := _APPENDED.fullmatch(one.file)) or int(match[1]) != pointer.version:
            raise SnapshotError(f"{path}: {one.file!r} is not appended to {pointer.version}")
        digests.append(one.sha256)
    for digest in digests:
        if not _DIGEST.fullmatch(digest):
            raise SnapshotError(f"{path}: {digest!r} is no SHA-256")


def write_pointer(data_dir: Path, pointer: Pointer) -> None:
    """Switch readers over, in one step.

    Raises:
        SnapshotError: if the pointer names a path outside the data directory.
    """
    _check(data_dir / POINTER, pointer)
    body = {
        "version": pointer.version,
        "path": pointer.path,
        "digest": pointer.digest,
        "appended": [
            {
                "file": one.file,
                "sha256": one.sha256,
                "position": {str(p): o for p, o in one.position.items()},
            }
            for one in pointer.appended
        ],
        "published_at": pointer.published_at,
    }
    write_atomically(data_dir / POINTER, orjson.dumps(body, option=orjson.OPT_INDENT_2))
