"""Directories that appear whole or not at all, and that are checked before they are read.

A published directory (a checkpoint, a handover of the trainer, a snapshot of the indexer) holds
files and, written last, `manifest.json`: schema version, kind, facts, and the SHA-256 and size of
every file. It is built under a temporary name beside its destination, synced and renamed. A
reader verifies the digests before anything is parsed; a path that leaves the directory is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from streaming.durable_files import PARTIAL, appear, make_folder, sync_path

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1


class ManifestError(ValueError):
    """A published directory is incomplete, corrupt or foreign; the message names the file."""


@dataclass(frozen=True)
class Manifest:
    """What a published directory says of itself.

    Attributes:
        kind: "checkpoint", "handover" or "snapshot".
        facts: JSON-able description (version, parent, offsets, event-time range, metrics, ...).
        files: relative POSIX path -> (SHA-256 in hex, size in bytes).
        digest: SHA-256 of `manifest.json` itself, which thereby names the whole content.
    """

    kind: str
    facts: dict[str, Any]
    files: dict[str, tuple[str, int]]
    digest: str


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def publish(
    destination: Path,
    kind: str,
    facts: dict[str, Any],
    write: Callable[[Path], None],
    known_digests: dict[str, str] | None = None,
    record: Callable[[str], None] = lambda _: None,
) -> Manifest:
    """Build a directory with `write(temporary_directory)` and make it appear as `destination`.

    `known_digests` maps relative paths to digests that need not be computed again (files that
    were hard-linked from an already verified directory). `record` is told the digest of the
    manifest before the directory appears.

    Raises:
        FileExistsError: if `destination` exists: a published directory is never replaced.
    """
    if destination.exists():
        raise FileExistsError(f"{destination} exists and a published directory is never replaced")
    make_folder(destination.parent)
    partial = destination.parent / f"{PARTIAL}{destination.name}-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        write(partial)
        files: dict[str, tuple[str, int]] = {}
        known = known_digests or {}
        for path in sorted(p for p in partial.rglob("*") if p.is_file()):
            name = path.relative_to(partial).as_posix()
            files[name] = (known.get(name) or sha256(path), path.stat().st_size)
            if name not in known:
                sync_path(path)
        body = {
            "schema_version": SCHEMA_VERSION,
            "kind": kind,
            "facts": facts,
            "files": {n: {"sha256": d, "bytes": s} for n, (d, s) in files.items()},
        }
        manifest = partial / MANIFEST
        manifest.write_text(json.dumps(body, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        sync_path(manifest)
        for folder in sorted(p for p in partial.rglob("*") if p.is_dir()):
            sync_path(folder)
        sync_path(partial)
        digest = sha256(manifest)
        record(digest)
        appear(partial, destination)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return Manifest(kind, facts, files, digest)


def read_manifest(directory: Path, kind: str) -> Manifest:
    """Read and validate `manifest.json`, without looking at the other files.

    Raises:
        ManifestError: if it is missing, malformed, of another kind or schema version, or names a
            path outside the directory.
    """
    path = directory / MANIFEST
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}; the directory is incomplete") from error
    try:
        body = json.loads(raw)
        if body["schema_version"] != SCHEMA_VERSION:
            raise ManifestError(
                f"{path}: schema version {body['schema_version']}, this build reads "
                f"{SCHEMA_VERSION}; publish again with this version"
            )
        if body["kind"] != kind:
            raise ManifestError(f"{path}: is a {body['kind']}, not a {kind}")
        files = {str(n): (str(f["sha256"]), int(f["bytes"])) for n, f in body["files"].items()}
        facts = dict(body["facts"])
    except ManifestError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ManifestError(f"{path}: malformed manifest ({error!r})") from error
    for name in files:
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or "\\" in name or name == MANIFEST:
            raise ManifestError(f"{path}: file name {name!r} leaves the directory")
    return Manifest(kind, facts, files, hashlib.sha256(raw).hexdigest())


def verify(directory: Path, kind: str, digest_of: Callable[[Path], str] = sha256) -> Manifest:
    """Check size and digest of every file named in the manifest, and that no link leads outside.

    Args:
        directory: a published one.
        kind: what it must be.
        digest_of: computes digests; who verifies directories that share files remembers them
            (`VerifiedFiles.digest`).

    Raises:
        ManifestError: naming the first file that is missing, truncated or altered.
    """
    manifest = read_manifest(directory, kind)
    root = directory.resolve()
    for name, (digest, size) in manifest.files.items():
        path = directory / name
        if not path.resolve().is_relative_to(root):
            raise ManifestError(f"{path}: leads outside {directory}")
        if not path.is_file():
            raise ManifestError(f"{path}: missing")
        if path.stat().st_size != size:
            raise ManifestError(f"{path}: {path.stat().st_size} bytes, the manifest says {size}")
        if digest_of(path) != digest:
            raise ManifestError(f"{path}: content differs from the digest in the manifest")
    return manifest
