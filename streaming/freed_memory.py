"""Memory that was freed goes back to the system where a lot of it was freed at once.

glibc raises the size from which it asks the system for memory of its own, up to 32 MiB, as such
pieces are freed; from then on arrays of a catalogue come from its heap, and what a replaced version
leaves behind there stays with the process: 220 MB of each reader of a million items.
"""

from __future__ import annotations

import ctypes
import sys

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
