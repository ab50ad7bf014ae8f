"""`published.jsonl`: the digest of every version that this data directory's indexer published.

One JSON object per line, `{"version": 7, "digest": SHA-256 of its manifest}`, appended and synced
before the version's directory appears, never changed. What a version brings along vouches only for
itself: whoever can write to the registry can alter the weights and every digest beside them. So
wherever a version is loaded, and above all where one comes back from the registry, its digest is
compared with the one that was noted here when it was made.

A data directory without the file is older than it: the indexer notes what is on disk when it
starts, and until then what is on disk is believed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import orjson

from indexer.errors import SnapshotError
from streaming.durable_files import sync_path, write_atomically

PUBLISHED = "published.jsonl"


def record(data_dir: Path, version: int, digest: str) -> None:
    """Note that a version was published, for good.

    Raises:
        OSError: if it cannot be written; the version must then not appear.
    """
    path = data_dir / PUBLISHED
    new = not path.exists()
    with path.open("ab+") as file:
        line = _line(version, digest)
        if file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":
            line = b"\n" + line  # a crash cut the last line off
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
    if new:
        sync_path(data_dir)


def begin_with(data_dir: Path, digests: Mapping[int, str]) -> None:
    """Begin the record of a data directory that is older than it, in one step."""
    lines = [_line(version, digest) for version, digest in sorted(digests.items())]
    write_atomically(data_dir / PUBLISHED, b"".join(lines))


def _line(version: int, digest: str) -> bytes:
    return orjson.dumps({"version": version, "digest": digest}) + b"\n"


def published(data_dir: Path) -> dict[int, str] | None:
    """Digest of each version's manifest by its number; None where nothing was ever noted.

    Raises:
        SnapshotError: if the file cannot be read.
    """
    path = data_dir / PUBLISHED
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SnapshotError(f"{path}: {error.strerror}") from error
    found: dict[int, str] = {}
    for line in lines:
        try:
            one = orjson.loads(line)
            found.setdefault(int(one["version"]), str(one["digest"]))
        except (ValueError, KeyError, TypeError):
            continue  # cut off by a crash, before its version appeared
    return found


def require_published(data_dir: Path, version: int, digest: str) -> None:
    """Check that a version is the one that was published under its number.

    Raises:
        SnapshotError: if another content was, or nothing was; the message says what to do.
    """
    known = published(data_dir)
    if known is None or known.get(version) == digest:
        return
    refuse(data_dir, version, digest, known.get(version))


def refuse(data_dir: Path, version: int, digest: str, noted: str | None) -> None:
    """Say why a version is not served.

    Raises:
        SnapshotError: always.
    """
    if noted is None:
        raise SnapshotError(
            f"version {version} was not published here: {data_dir / PUBLISHED} does not know it; "
            "choose one of those that `sparc snapshots` lists, and serve another pipeline's "
            "version from that pipeline's data directory"
        )
    raise SnapshotError(
        f"version {version} is not what was published: its manifest has the digest {digest[:12]}…, "
        f"{data_dir / PUBLISHED} says {noted[:12]}…; it was altered since, so it is not served: "
        "choose another version, find out who can write to the registry, and delete the altered one"
    )
