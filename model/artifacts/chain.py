"""A chain of segments: a base that holds all rows, then deltas with those that changed since.

Published directories that follow each other share segments: each writes its new one and hard-links
the older ones of its chain, and names them all, oldest first, in its manifest's facts. So every
directory is complete by itself, with digests of all it needs, and the rest of a directory may be
removed at any time. To write the next one:

    chain = Chain.of(directory, manifest)                  # of the one before, verified
    if chain is not None and chain.is_full(bytes_of_the_delta):
        chain = None                                       # begin a new base
    def write(directory):
        if chain is not None:
            chain.link(directory)
        ...                                                # the new segment, under `name`
    names = [*chain.names, name] if chain is not None else [name]
    publish(path, kind, facts | {SEGMENTS: names}, write, chain.digests if chain else None)

A reader takes `paths()` in order, or only what `since` names, where it holds the older ones.
One that verifies many such directories remembers digests (`verified_files`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from model.artifacts.manifest import Manifest, ManifestError, sha256

SEGMENTS = "segments"
"""The fact that names a chain."""
FLOOR = 1 << 20
"""Bytes of deltas that are always worth keeping: a new base is not begun for less."""
LONGEST = 32
"""Segments; a reader opens at most so many files."""


@dataclass(frozen=True)
class Chain:
    """The segments of one published directory.

    Attributes:
        directory: where they lie.
        names: their paths in it, oldest first: the base, then the deltas.
        digests: SHA-256 of each name, in hex; what `publish` need not compute again.
        sizes: bytes of each, in the order of `names`.
    """

    directory: Path
    names: tuple[str, ...]
    digests: dict[str, str]
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, directory: Path, manifest: Manifest, fact: str = SEGMENTS) -> Chain:
        """The chain that the manifest of a directory names.

        Raises:
            ManifestError: if it names none, or a file that the directory does not have.
        """
        names = manifest.facts.get(fact)
        if not isinstance(names, list) or not names:
            raise ManifestError(f"{directory}: its manifest names no {fact}")
        for name in names:
            if str(name) not in manifest.files or names.count(name) > 1:
                raise ManifestError(
                    f"{directory}: {fact} names {name!r}, which is no file of it, or twice"
                )
        files = {name: manifest.files[name] for name in names}
        digests = {name: digest for name, (digest, _) in files.items()}
        return cls(directory, tuple(names), digests, tuple(size for _, size in files.values()))

    def paths(self) -> list[Path]:
        """Where the segments lie, oldest first."""
        return [self.directory / name for name in self.names]

    def is_as_written(self) -> bool:
        """Whether every segment is what its digest says; reads all of them."""
        with contextlib.suppress(OSError):
            return all(sha256(path) == self.digests[path.name] for path in self.paths())
        return False

    def is_full(self, coming: int) -> bool:
        """Whether a delta of `coming` bytes must not be added: a new base is due instead.

        The deltas never outgrow their base, nor the chain its longest: so a reader reads at most
        twice the base, and writing bases costs no more than writing the deltas, but for chains
        of very small ones.
        """
        return is_full(self.sizes, coming)

    def link(self, directory: Path) -> None:
        """Put the segments under the same names into a directory that is being written."""
        for name, path in zip(self.names, self.paths(), strict=True):
            destination = directory / name
            destination.parent.mkdir(parents=True, exist_ok=True)
            link(path, destination)

    def since(self, loaded: Sequence[str]) -> tuple[str, ...] | None:
        """The names behind those whose digests are `loaded`, in order.

        None where the chain is not a continuation of them: all of it is to be read then.
        """
        ours = [self.digests[name] for name in self.names]
        if ours[: len(loaded)] != list(loaded):
            return None
        return self.names[len(loaded) :]


def is_full(sizes: Sequence[int], coming: int) -> bool:
    """`Chain.is_full` for segments of these bytes, base first, wherever they are."""
    base, *deltas = sizes
    return len(sizes) >= LONGEST or sum(deltas) + coming > max(base, FLOOR)


def link(source: Path, destination: Path) -> None:
    """Hard-link a file, or copy it where that is impossible.

    Raises:
        OSError: if it can be neither.
    """
    try:
        os.link(source, destination)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, destination)
        with destination.open("rb") as file:
            os.fsync(file.fileno())
