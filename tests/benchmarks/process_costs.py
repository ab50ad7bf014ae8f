"""What a process costs: processor seconds by method, bytes that are new on disk, memory by part."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

MIB = 2**20


class Ledger:
    """Processor seconds by name since the last `take`."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def add(self, name: str, seconds: float) -> None:
        self._seconds[name] += seconds

    def take(self) -> dict[str, float]:
        taken = {name: round(seconds, 4) for name, seconds in self._seconds.items()}
        self._seconds.clear()
        return taken


class Timed:
    """A component whose methods enter in a ledger, as `name.method`, what they took.

    `after` is called with the name of a method and its arguments, when it has returned.
    """

    def __init__(
        self,
        component: Any,
        name: str,
        ledger: Ledger,
        after: Callable[..., None] = lambda *_: None,
    ) -> None:
        self._component = component
        self._name = name
        self._ledger = ledger
        self._after = after

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._component, name)
        if not callable(attribute):
            return attribute

        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.process_time()
            try:
                result = attribute(*args, **kwargs)
            finally:
                self._ledger.add(f"{self._name}.{name}", time.process_time() - began)
            self._after(name, *args)
            return result

        return call


class NewFiles:
    """The files that have appeared under a directory since the last look, hard links aside."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._seen: set[tuple[int, int]] = set()

    def take(self) -> dict[str, int]:
        """Path and bytes of each file that is new; one that is linked once more is not."""
        found = {}
        for path in sorted(self._directory.rglob("*")):
            status = path.lstat()
            identity = (status.st_ino, status.st_mtime_ns)
            if path.is_file() and identity not in self._seen:
                self._seen.add(identity)
                found[str(path.relative_to(self._directory))] = status.st_size
        return found


class MemoryWatch:
    """Looks at the memory of processes until it is closed.

    PSS counts a page that n processes share as an n-th of it for each, so that the parts add up:
    https://docs.kernel.org/filesystems/proc.html.
    """

    def __init__(self, pids: Mapping[str, int], together: Mapping[str, tuple[str, ...]]) -> None:
        self._pids = dict(pids)
        self._together = dict(together)
        self._peaks: dict[str, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.25):
            for name, size in self.now().items():
                self._peaks[name] = max(self._peaks.get(name, 0), size)

    def now(self) -> dict[str, int]:
        """MiB of PSS of each process, and of those that are counted together."""
        sizes = {name: pss_mib(pid) for name, pid in self._pids.items()}
        return sizes | {
            name: sum(sizes[one] for one in names if one in sizes)
            for name, names in self._together.items()
        }

    def peaks(self) -> dict[str, int]:
        """The most that was seen of each."""
        return dict(self._peaks)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


def pss_mib(pid: int) -> int:
    """Proportional set size of a process; 0 where it has ended."""
    try:
        return int(psutil.Process(pid).memory_full_info().pss) // MIB
    except psutil.Error:
        return 0


def peak_mib(pid: int) -> int:
    """VmHWM of a process: the most that was ever resident of it, shared pages among it."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) // 1024
    return 0
