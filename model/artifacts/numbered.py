"""Published directories under ascending numbers: checkpoints, handovers, snapshots."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from streaming.durable_files import PARTIAL


class NumberedDirectories:
    """The directories `<folder>/<number>`; anything else in the folder is not looked at.

    Args:
        folder: need not exist yet.
        digits: of a number, filled up with zeros, so that names sort as numbers do.
    """

    def __init__(self, folder: Path, digits: int = 8) -> None:
        self.folder = folder
        self._digits = digits

    def path(self, number: int) -> Path:
        """Where a number lies."""
        return self.folder / f"{number:0{self._digits}d}"

    def numbers(self) -> list[int]:
        """What is there, ascending."""
        if not self.folder.is_dir():
            return []
        return sorted(int(p.name) for p in self.folder.iterdir() if p.name.isdigit() and p.is_dir())

    def newest(self) -> int:
        """The highest number, 0 if there is none."""
        return max(self.numbers(), default=0)

    def keep(self, count: int, protected: Collection[int] = ()) -> list[int]:
        """Remove all but the last `count` and the protected ones; returns the removed numbers.

        Each disappears in one step, so that no reader finds half of it under its name.
        """
        removed = [number for number in self.numbers()[:-count] if number not in protected]
        for number in removed:
            path = self.path(number)
            gone = path.with_name(f"{PARTIAL}removed-{path.name}")
            path.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)
        return removed
