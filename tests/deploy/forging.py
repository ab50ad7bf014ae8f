"""A snapshot altered as somebody would who can write to the registry: whole by its own word."""

from __future__ import annotations

import json
from pathlib import Path

from model.artifacts.manifest import Manifest, read_manifest, sha256


def forge(directory: Path, version: int | None = None) -> Manifest:
    """Alter the popularity that a model believes in, and every digest with it."""
    weights = directory / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-4:] = b"\0\0\0\0" if content[-4:] != b"\0\0\0\0" else b"\1\0\0\0"
    weights.unlink()  # a hard link may lead to the true one
    weights.write_bytes(content)
    manifest = directory / "manifest.json"
    body = json.loads(manifest.read_bytes())
    body["files"]["weights.safetensors"]["sha256"] = sha256(weights)
    if version is not None:
        body["facts"]["version"] = version
    manifest.unlink()
    manifest.write_text(json.dumps(body, indent=1, sort_keys=True) + "\n")
    return read_manifest(directory, "snapshot")
