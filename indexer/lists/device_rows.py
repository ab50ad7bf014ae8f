"""The vectors of lists on a device, where a search scores them.

A block of rows is copied there once, and stays for as long as the lists of any version that hold
it: versions share their blocks (`indexer.lists.code_list`), so a version that follows another
brings over what has changed. What is held is bounded; where it does not fit, nothing of it is
copied.

Shapes: n rows of a block, D dimension, m cells.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import numpy as np

from indexer.errors import IndexerError
from indexer.lists.cells import CellRows
from indexer.lists.code_lists import CodeLists

if TYPE_CHECKING:  # lists that stay where they are need no torch
    from torch import Tensor

SCORES_SHARE = 4
"""A fourth of the memory is for scoring, at most `SCORES_BYTES`."""
SCORES_BYTES = 1 << 30


class DeviceFull(IndexerError):
    """The memory of the device does not suffice; the message says for what."""


class DeviceBlock:
    """The rows of one block on the device.

    Attributes:
        rows: of which they are; held, so that no others take their place in memory.
        vectors_nD: float32.
        means_mD: float32, of each cell.
    """

    def __init__(self, rows: CellRows, copied: Callable[[np.ndarray], Tensor]) -> None:
        self.rows = rows
        self.vectors_nD, self.means_mD = copied(rows.vectors), copied(rows.means)


class DeviceLists:
    """Lists of one version on the device.

    Attributes:
        blocks: base and tail of each list in turn (2 C); None for one without rows.
        beside: bytes that the version takes beside them.
    """

    def __init__(self, blocks: list[DeviceBlock | None], beside: int) -> None:
        self.blocks, self.beside = blocks, beside


class DeviceRows:
    """What a device holds of lists; safe to share by threads, and by versions.

    Args:
        device: "cuda", or "cpu", where everything works alike.
        most_bytes: memory that the lists and their scoring may take.
        told: takes a line where the CPU takes over, again only when it is another one.

    Attributes:
        device: as given.
        scores_bytes: memory that scoring may take.
        scoring: to be held while it does.
        refused: how often the CPU took over what did not fit.
    """

    def __init__(
        self, device: str, most_bytes: int, told: Callable[[str], None] = lambda _: None
    ) -> None:
        self.device = device
        self.scoring = threading.Lock()
        self.refused = 0
        self._told, self._last_told = told, ""
        self.scores_bytes = min(SCORES_BYTES, most_bytes // SCORES_SHARE)
        self._most = most_bytes - self.scores_bytes
        self._lock = threading.Lock()
        self._held: WeakValueDictionary[int, DeviceBlock] = WeakValueDictionary()
        self._versions: WeakValueDictionary[int, DeviceLists] = WeakValueDictionary()

    @property
    def nbytes(self) -> int:
        """Memory of the lists that are held now."""
        # references are taken at once: who measures does not wait while lists are copied
        blocks = [block for ref in self._held.valuerefs() if (block := ref()) is not None]
        versions = [one for ref in self._versions.valuerefs() if (one := ref()) is not None]
        return sum(_bytes(block.rows) for block in blocks) + sum(one.beside for one in versions)

    def refuse(self, error: DeviceFull) -> None:
        """Note that the CPU takes over."""
        self.refused += 1
        if str(error) != self._last_told:
            self._last_told = str(error)
            self._told(str(error))

    def on(self, array: np.ndarray) -> Tensor:
        """A copy on the device."""
        import torch

        return torch.tensor(array, device=self.device)

    def hold(self, lists: CodeLists, beside: int) -> DeviceLists:
        """Copy what is not here yet; it stays for as long as what is returned.

        Args:
            lists: of a version.
            beside: bytes that it takes beside its rows.

        Raises:
            DeviceFull: if they do not fit beside what is held.
        """
        import torch

        all_rows = [rows for one in lists.lists for rows in one.blocks]
        with self._lock:
            found = [self._held.get(id(rows)) for rows in all_rows]
            missing = [n for n, rows in enumerate(all_rows) if len(rows) and found[n] is None]
            held, more = self.nbytes, beside + sum(_bytes(all_rows[n]) for n in missing)
            if held + more > self._most:
                raise DeviceFull(
                    f"the lists may take {self._most >> 20} MiB of the device; {held >> 20} MiB "
                    f"are held and {more >> 20} MiB more are needed, so they are searched on the "
                    "CPU: raise [search] device_memory_mib"
                )
            try:
                for n in missing:
                    found[n] = self._held[id(all_rows[n])] = DeviceBlock(all_rows[n], self.on)
            except torch.OutOfMemoryError as error:
                raise no_memory_left() from error
            version = DeviceLists(found, beside)
            self._versions[id(version)] = version
        return version


def no_memory_left() -> DeviceFull:
    """What to say where the device itself is full."""
    return DeviceFull(
        "the device has no memory left, so the CPU searches: end what else uses it, or lower "
        "[search] device_memory_mib"
    )


def _bytes(rows: CellRows) -> int:
    return rows.vectors.nbytes + rows.means.nbytes
