"""A segment: the file of a publication that says what changed of the items.

Shapes: n items with a place, m with counts, k with neighbours, P neighbours of all of these, g rows
whose item is gone; D dimension of z, Q levels, H half-lives.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from model.histories import NO_ROW

Rows = NDArray[np.int64]
FIELDS: dict[str, tuple[torch.dtype, int]] = {
    "rows_n": (torch.int64, 1),
    "ids_n": (torch.int64, 1),
    "z_nD": (torch.float32, 2),
    "codes_nQ": (torch.int16, 2),
    "words_nT": (torch.int16, 2),
    "category_n": (torch.int16, 1),
    "event_rows_m": (torch.int64, 1),
    "events_m": (torch.int64, 1),
    "counts_mH": (torch.float64, 2),
    "count_times_m": (torch.int64, 1),
    "near_rows_k": (torch.int64, 1),
    "near_starts_K": (torch.int64, 1),
    "near_items_P": (torch.int32, 1),
    "near_weights_PH": (torch.float32, 2),
    "near_times_k": (torch.int64, 1),
    "gone_rows_g": (torch.int64, 1),
    "gone_ids_g": (torch.int64, 1),
}
"""Type and dimensions of each array."""
FORMERLY_NONE = {"gone_rows_g", "gone_ids_g"}
"""Arrays that older segments lack: nothing was forgotten."""


class SegmentError(ValueError):
    """A segment is unreadable, malformed, or does not follow those before it."""


class Segment(NamedTuple):
    """Rows that changed. Arrays are in memory or memory-mapped, and are not written to.

    Attributes:
        rows_n: int64 catalogue rows whose place is said, ascending, each once.
        ids_n: int64 item ids of them.
        z_nD: float32 places.
        codes_nQ: int16 codes.
        words_nT, category_n: int16 hashed title and category that the places are made of.
        event_rows_m: int64 rows whose counts are said, ascending, each once.
        events_m: int64 events so far.
        counts_mH: float64 decayed counts as of `count_times_m`.
        count_times_m: int64 ms.
        near_rows_k: int64 rows whose neighbours are said, ascending, each once.
        near_starts_K: int64 (k + 1), where the neighbours of each begin among P, and the end.
        near_items_P: int32 rows of the neighbours, `NO_ROW` for an empty slot.
        near_weights_PH: float32 weights as of `near_times_k`.
        near_times_k: int64 ms.
        gone_rows_g: int64 rows, each once, that are not their item's any more; a row may be given
            to another item at once. Free rows behind those of the segments before are named, too.
        gone_ids_g: int64 ids of these items, `NO_ITEM` where there was none.
    """

    rows_n: Rows
    ids_n: Rows
    z_nD: NDArray[np.float32]
    codes_nQ: NDArray[np.int16]
    words_nT: NDArray[np.int16]
    category_n: NDArray[np.int16]
    event_rows_m: Rows
    events_m: Rows
    counts_mH: NDArray[np.float64]
    count_times_m: Rows
    near_rows_k: Rows
    near_starts_K: Rows
    near_items_P: NDArray[np.int32]
    near_weights_PH: NDArray[np.float32]
    near_times_k: Rows
    gone_rows_g: Rows = np.empty(0, np.int64)
    gone_ids_g: Rows = np.empty(0, np.int64)

    def save(self, path: Path) -> None:
        """Write a safetensors file.

        Raises:
            OSError: if it cannot be written.
        """
        tensors = {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in self._named()}
        try:
            save_file(tensors, path)
        except SafetensorError as error:  # wraps what the operating system said
            raise OSError(f"{path}: {error}") from error

    def _named(self) -> list[tuple[str, NDArray[Any]]]:
        return list(zip(self._fields, self, strict=True))

    @property
    def nbytes(self) -> int:
        """Size of all arrays."""
        return sum(x.nbytes for x in self)

    @classmethod
    def load(cls, path: Path) -> Segment:
        """Map a file whose digest was verified; only what is looked at is read from disk.

        Raises:
            SegmentError: naming the file and the array that is missing, of another type or size,
                or out of order.
        """
        try:
            with safe_open(path, framework="pt") as file:
                names = set(file.keys())
                if names | FORMERLY_NONE != FIELDS.keys():
                    odd = sorted((names | FORMERLY_NONE) ^ FIELDS.keys())[0]
                    raise SegmentError(f"{path}: {odd!r} is missing or too much in a segment")
                arrays: dict[str, Any] = {n: np.empty(0, np.int64) for n in FORMERLY_NONE}
                for name in names:
                    dtype, dimensions = FIELDS[name]
                    tensor = file.get_tensor(name)
                    if tensor.dtype != dtype or tensor.dim() != dimensions:
                        raise SegmentError(
                            f"{path}: {name} is {tensor.dtype} of shape {list(tensor.shape)}"
                        )
                    arrays[name] = tensor.numpy()
        except (OSError, SafetensorError) as error:
            raise SegmentError(f"{path}: not readable as safetensors ({error})") from error
        segment = cls(**arrays)
        if wrong := segment.flaw(places=False):
            raise SegmentError(f"{path}: {wrong}")
        return segment

    def flaw(self, *, places: bool = True) -> str | None:
        """What is wrong with sizes, order or values; None for a sound segment.

        `places` are looked through by who writes a segment; a reader maps them, and they are the
        greatest part of it.
        """
        n, m, k = len(self.rows_n), len(self.event_rows_m), len(self.near_rows_k)
        lengths = {
            "ids_n": n, "z_nD": n, "codes_nQ": n, "words_nT": n, "category_n": n, "events_m": m,
            "counts_mH": m, "count_times_m": m, "near_times_k": k, "near_starts_K": k + 1,
            "near_weights_PH": len(self.near_items_P), "gone_ids_g": len(self.gone_rows_g),
        }  # fmt: skip
        for name, length in lengths.items():
            if len(getattr(self, name)) != length:
                return f"{name} has {len(getattr(self, name))} rows, not {length}"
        for name in ("rows_n", "event_rows_m", "near_rows_k", "gone_rows_g"):
            rows = getattr(self, name)
            if len(rows) and (rows[0] < 0 or (rows[1:] <= rows[:-1]).any()):
                return f"{name} do not ascend from 0 on"
        if len(self.ids_n) and self.ids_n.min() < 0:
            return "ids_n holds a negative id"
        if self.near_starts_K[0] != 0 or self.near_starts_K[-1] != len(self.near_items_P):
            return "near_starts_K do not span the neighbours"
        if (self.near_starts_K[1:] < self.near_starts_K[:-1]).any():
            return "near_starts_K do not ascend"
        for name in ("counts_mH", "near_weights_PH", *(["z_nD"] if places else [])):
            x = getattr(self, name)
            # where the sum of a row is finite, all of it is, and a sum is quicker to ask
            if not np.isfinite(x.sum(axis=1)).all() and not np.isfinite(x).all():
                return f"{name} holds NaN or infinity"
        if len(self.near_items_P) and self.near_items_P.min() < NO_ROW:
            return "near_items_P holds a negative row"
        return None
