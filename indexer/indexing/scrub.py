"""Files that versions share are read again now and then, some at each publication.

A process verifies a file once and has it mapped from then on. If the disk loses a bit of it later,
this process does not notice, and every version that links the file is refused by whoever starts
anew. So some of what the newest version shares is hashed again before the next one links it.
"""

from __future__ import annotations

from pathlib import Path

from model.artifacts.manifest import Manifest, sha256

BYTES = 16 << 20
"""Read at each publication, and at least one file: a million items are through in an hour or so."""


class Scrub:
    """Goes round the files of the newest version; `bytes_at_once` are read in one step."""

    def __init__(self, bytes_at_once: int = BYTES) -> None:
        self._bytes = bytes_at_once
        self._last = ""  # in the order of names

    def damaged(self, directory: Path, manifest: Manifest) -> str | None:
        """The name of a file that is not as it was published, among the next few; else None."""
        names = sorted(manifest.files)
        later = [name for name in names if name > self._last] or names
        left = self._bytes
        for name in later:
            digest, size = manifest.files[name]
            self._last = name
            try:
                if sha256(directory / name) != digest:
                    return name
            except OSError:
                return name
            left -= size
            if left <= 0:
                break
        return None
