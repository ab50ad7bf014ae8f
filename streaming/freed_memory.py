"""Memory that is not needed goes back to the system: what was freed, and files that were looked at.

glibc raises the size from which it asks the system for memory of its own, up to 32 MiB, as such
pieces are freed; from then on arrays of a catalogue come from its heap, and what a replaced version
leaves behind there stays with the process: 220 MB of each reader of a million items.
"""

from __future__ import annotations

import ctypes
import sys
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

_SMAPS = Path("/proc/self/smaps")
_MADV_DONTNEED = 4

KEPT = 128 << 20
"""Bytes at the end of the heap that stay with a process that uses them again at once."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of <malloc.h>
_OWN_MAPPING = 32 << 20  # what glibc raises it to by itself, but for setting the other


def keep_for_the_next() -> None:
    """Keep up to `KEPT` of what is freed, until `give_back`; nothing where that cannot be asked.

    For who frees as much as it takes again at once, as a step of learning does: else the system is
    given pages and asked for new ones thousands of times a second, a twentieth of the time.
    """
    if sys.platform != "linux":
        return
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_MMAP_THRESHOLD, _OWN_MAPPING)
        set_option(_TRIM_THRESHOLD, KEPT)


def give_back() -> None:
    """Give what lies unused in the heap back to the system; nothing where that cannot be asked.

    It takes milliseconds: once a version has been replaced is often enough.
    """
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl has not
    if trim is not None:
        trim(0)


def let_go_of_files(folder: Path, arrays: Sequence[NDArray[Any]]) -> None:
    """Count no page of the files behind arrays as this process's until it is looked at again.

    Who loads a version looks through the files that it maps, once, and answers need few of their
    pages. What stays in the system's cache is found there again without reading. What is no file
    under the folder is left as it is, and so is a mapping that was written to. The arrays are held
    meanwhile: what lies where they do is not another's in the next moment.
    """
    if sys.platform != "linux":
        return
    places = sorted(array.__array_interface__["data"][0] for array in arrays)
    system = ctypes.CDLL(None)
    with suppress(OSError):  # not every process may read what is said of it
        for start, size in list(_mapped(folder)):
            at = bisect_left(places, start)
            if at < len(places) and places[at] < start + size:
                system.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), _MADV_DONTNEED)


def _mapped(folder: Path) -> Iterator[tuple[int, int]]:
    """Address and size of each mapping of a file under a folder that is as the file is."""
    inside = f"{folder.resolve()}/"
    found: tuple[int, int] | None = None
    for line in _SMAPS.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        words = line.split(maxsplit=5)
        if not words[0].endswith(":"):  # a mapping's first line: addresses, ..., path
            found = None
            if len(words) > 5 and words[5].startswith(inside):
                start, end = (int(word, 16) for word in words[0].split("-"))
                found = start, end - start
        elif words[0] == "Anonymous:" and words[1] == "0" and found is not None:
            yield found
