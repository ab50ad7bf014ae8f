"""Files whose digest was computed, so that a hard link to one is not read again for that.

A directory that continues a chain, or shares lists with its parent, links files that its reader
has verified a moment ago. Who the file is says its inode, and that nobody wrote to it since its
size and the time of its last change.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from model.artifacts.manifest import sha256

MOST = 4096


class VerifiedFiles:
    """Digests by identity of the file; the oldest give way beyond some thousand.

    Threads may share them.

    `compute` gives the digest of a file that was not read yet.

    >>> files = VerifiedFiles()
    >>> files.digest(Path(__file__)) == files.digest(Path(__file__)) == sha256(Path(__file__))
    True
    """

    def __init__(self, compute: Callable[[Path], str] = sha256) -> None:
        self._compute = compute
        self._digests: dict[tuple[int, int, int, int], str] = {}
        self._changing = threading.Lock()

    def digest(self, path: Path) -> str:
        """SHA-256 of a file, in hex, read only if it was not read before.

        Raises:
            OSError: if it cannot be read.
        """
        found = path.stat()
        identity = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
        digest = self._digests.get(identity) or self._compute(path)
        with self._changing:
            self._digests.pop(identity, None)
            self._digests[identity] = digest  # the newest is the last
            if len(self._digests) > MOST:
                del self._digests[next(iter(self._digests))]
        return digest
