"""Experience replay: the newest examples, drawn again in chunks.

Replay keeps an online model from forgetting (Rolnick et al., NeurIPS 2019). A chunk is a run of
consecutive examples, so that its events share a clock: the popularity of their time is then
looked up once for a chunk and not once for an event. Whose an example is, is kept to let go of it
when the user is to be forgotten, and for nothing else.
Shapes: B examples, L history length, K neighbours, H half-lives.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.histories import NO_ROW, HistoryBatch
from model.tables.cooccurrence import Neighbours
from streaming.events import HISTORY_LENGTH

NOBODY = np.iinfo(np.int64).min
"""Whose an example is that was kept before users were."""


class Examples(NamedTuple):
    """Training examples in row space.

    Attributes:
        targets_B: rows, int64.
        times_B: event times in ms.
        histories: rows and times of earlier events.
        neighbours: neighbours of the history when the event arrived.
    """

    targets_B: np.ndarray
    times_B: np.ndarray
    histories: HistoryBatch
    neighbours: Neighbours

    def split(self, size: int) -> list[Examples]:
        """Runs of at most `size` examples, as equal as can be."""
        count = -(-len(self.targets_B) // size)
        return [
            Examples(
                self.targets_B[part],
                self.times_B[part],
                HistoryBatch(*(x[part] for x in self.histories)),
                Neighbours(*(x[part] for x in self.neighbours)),
            )
            for part in np.array_split(np.arange(len(self.targets_B)), count)
        ]


def concatenate(parts: list[Examples]) -> Examples:
    """One batch of several, padded alike."""
    length = max(p.histories.rows_BL.shape[1] for p in parts)
    width = max(p.neighbours.rows_BK.shape[1] for p in parts)

    def left(x: np.ndarray, fill: int) -> np.ndarray:
        return np.pad(x, ((0, 0), (length - x.shape[1], 0)), constant_values=fill)

    def right(x: np.ndarray, fill: int) -> np.ndarray:
        pads = [(0, 0), (0, width - x.shape[1])] + [(0, 0)] * (x.ndim - 2)
        return np.pad(x, pads, constant_values=fill)

    return Examples(
        np.concatenate([p.targets_B for p in parts]),
        np.concatenate([p.times_B for p in parts]),
        HistoryBatch(
            np.concatenate([left(p.histories.rows_BL, NO_ROW) for p in parts]),
            np.concatenate([left(p.histories.times_BL, 0) for p in parts]),
        ),
        Neighbours(
            np.concatenate([right(p.neighbours.rows_BK, NO_ROW) for p in parts]),
            np.concatenate([right(p.neighbours.scores_BKH, 0) for p in parts]),
        ),
    )


class ReplayBuffer:
    """A ring of the newest `capacity` examples; memory grows with its content."""

    def __init__(self, capacity: int, neighbours: int, half_lives: int) -> None:
        self.capacity = capacity
        self._total = 0
        self._new = 0  # so many of the newest are not saved yet
        self._forgotten = np.zeros(0, np.int64)  # rows, since the last save
        self._arrays: dict[str, np.ndarray] = {
            "users": np.zeros(0, dtype=np.int64),
            "targets": np.zeros(0, dtype=np.int32),
            "times": np.zeros(0, dtype=np.int64),
            "history_rows": np.zeros((0, HISTORY_LENGTH), dtype=np.int32),
            "history_times": np.zeros((0, HISTORY_LENGTH), dtype=np.int64),
            "neighbour_rows": np.zeros((0, neighbours), dtype=np.int32),
            "neighbour_scores": np.zeros((0, neighbours, half_lives), dtype=np.float16),
        }

    def __len__(self) -> int:
        return min(self._total, self.capacity)

    def add(self, examples: Examples, users_B: np.ndarray) -> None:
        """Append examples of users; the oldest fall out when the ring is full."""
        batch = len(examples.targets_B)
        self._reserve(min(self._total + batch, self.capacity))
        places_B = (self._total + np.arange(batch)) % self.capacity
        self._total += batch
        self._new = min(self._new + batch, self.capacity)
        arrays = self._arrays
        arrays["users"][places_B] = users_B
        arrays["targets"][places_B] = examples.targets_B
        arrays["times"][places_B] = examples.times_B
        length = examples.histories.rows_BL.shape[1]
        arrays["history_rows"][places_B] = NO_ROW
        arrays["history_rows"][places_B, HISTORY_LENGTH - length :] = examples.histories.rows_BL
        arrays["history_times"][places_B, HISTORY_LENGTH - length :] = examples.histories.times_BL
        width = examples.neighbours.rows_BK.shape[1]
        arrays["neighbour_rows"][places_B] = NO_ROW
        arrays["neighbour_rows"][places_B, :width] = examples.neighbours.rows_BK
        arrays["neighbour_scores"][places_B, :width] = examples.neighbours.scores_BKH

    def forget(self, user: int, but: int = 0) -> None:
        """Let go of what a user did, except for their last `but` examples.

        The next example that stays is put in the place of each, so that chunks go on to be of one
        time. What was saved before is to be saved as a whole again. Examples of which it is not
        known whose they are go as well, and nothing takes their place: they may be nearly all.
        """
        self._keep(self._arrays["users"][self._ordered()] != NOBODY)
        places = self._ordered()
        users = self._arrays["users"][places]
        mine = np.flatnonzero(users == user)
        gone = np.zeros(len(places), np.bool_)
        gone[mine[: len(mine) - but]] = True
        stays = np.flatnonzero(~gone)
        if not gone.any():
            return
        if len(stays) == 0:
            self._total = self._new = 0
            self._arrays = {name: array[:0] for name, array in self._arrays.items()}
            return
        next_one = stays[stays.searchsorted(np.flatnonzero(gone)).clip(max=len(stays) - 1)]
        for array in self._arrays.values():
            array[places[gone]] = array[places[next_one]]

    def forget_items(self, rows_n: np.ndarray) -> None:
        """Items are no more: their examples go, and others do not know them; a pass over all.

        What is left of a history, or of neighbours, moves together.
        """
        self._forgotten = np.union1d(self._forgotten, rows_n)
        arrays = self._arrays
        self._keep(~np.isin(arrays["targets"][self._ordered()], rows_n))
        for rows, beside, to_the_right in (
            ("history_rows", "history_times", True),
            ("neighbour_rows", "neighbour_scores", False),
        ):
            named_b = np.flatnonzero(np.isin(arrays[rows][: len(self)], rows_n).any(axis=1))
            if not len(named_b):
                continue
            rows_bX = arrays[rows][named_b]
            known_bX = (rows_bX != NO_ROW) & ~np.isin(rows_bX, rows_n)
            for name, fill in ((rows, NO_ROW), (beside, 0)):
                arrays[name][named_b] = _together(
                    arrays[name][named_b], known_bX, fill, to_the_right
                )

    def _keep(self, stays: np.ndarray) -> None:
        """Keep these of the examples, which are told oldest first, and no others."""
        if stays.all():
            return
        places = self._ordered()[stays]
        self._new = int(stays[len(stays) - self._new :].sum())
        self._total = len(places)
        for array in self._arrays.values():
            array[: self._total] = array[places]

    def _ordered(self) -> np.ndarray:
        """Places of the examples, oldest first."""
        return np.arange(self._total - len(self), self._total) % self.capacity

    def _reserve(self, size: int) -> None:
        have = len(self._arrays["targets"])
        if size > have:
            more = min(self.capacity, max(1024, size, 2 * have)) - have
            for name, array in self._arrays.items():
                self._arrays[name] = np.pad(array, [(0, more)] + [(0, 0)] * (array.ndim - 1))

    def sample(
        self, chunks: int, chunk_length: int, recency: float, generator: torch.Generator
    ) -> Examples | None:
        """`chunks` runs of `chunk_length` consecutive examples; None while there is no full run.

        A run starts at age u^recency of the buffer, u uniform: 1 draws evenly, more draws newer.
        """
        starts = len(self) - chunk_length
        if starts < 0 or chunks == 0:
            return None
        age_G = torch.rand(chunks, generator=generator, dtype=torch.float64).numpy() ** recency
        first_G = starts - (age_G * (starts + 1)).astype(np.int64).clip(0, starts)
        oldest = self._total - len(self)
        logical_B = (first_G[:, None] + np.arange(chunk_length)).ravel()
        return self._at((oldest + logical_B) % self.capacity)

    def _at(self, places_B: np.ndarray) -> Examples:
        arrays = self._arrays
        rows_BL = arrays["history_rows"][places_B].astype(np.int64)
        neighbours_BK = arrays["neighbour_rows"][places_B].astype(np.int64)
        length = max(1, int((rows_BL != NO_ROW).sum(1).max(initial=0)))
        width = max(1, int((neighbours_BK != NO_ROW).sum(1).max(initial=0)))
        return Examples(
            arrays["targets"][places_B].astype(np.int64),
            arrays["times"][places_B],
            HistoryBatch(rows_BL[:, -length:], arrays["history_times"][places_B, -length:]),
            Neighbours(
                neighbours_BK[:, :width],
                arrays["neighbour_scores"][places_B, :width].astype(np.float32),
            ),
        )

    def changes(self, whole: bool) -> dict[str, Tensor]:
        """What was added and forgotten since the last call, for `apply`; `whole`: all there is.

        Examples are without their padding.
        """
        added = len(self) if whole else self._new
        places_B = self._ordered()[len(self) - added :]
        forgotten = self._forgotten
        self._new, self._forgotten = 0, np.zeros(0, np.int64)
        a = {name: array[places_B] for name, array in self._arrays.items()}
        known_BL, near_BK = a["history_rows"] != NO_ROW, a["neighbour_rows"] != NO_ROW
        packed = {
            "forgotten": forgotten[:0] if whole else forgotten,
            "kept": np.asarray(len(self) - added, dtype=np.int64),
            "capacity": np.asarray(self.capacity, dtype=np.int64),
            "total": np.asarray(self._total, dtype=np.int64),
            "users": a["users"],
            "targets": a["targets"],
            "times": a["times"],
            "history_lengths": known_BL.sum(1).astype(np.int16),
            "history_rows": a["history_rows"][known_BL],
            "history_times": a["history_times"][known_BL],
            "neighbour_counts": near_BK.sum(1).astype(np.int16),
            "neighbour_rows": a["neighbour_rows"][near_BK],
            "neighbour_scores": a["neighbour_scores"][near_BK],
        }
        return {name: torch.from_numpy(array) for name, array in packed.items()}

    def apply(self, changes: dict[str, Tensor]) -> None:
        """Take over what `changes` gave, on top of what was given before it.

        Raises:
            ValueError: if it is of a buffer of another capacity.
        """
        s = {name: value.numpy() for name, value in changes.items()}
        if int(s["capacity"]) != self.capacity:
            raise ValueError(
                f"the replay buffer had a capacity of {int(s['capacity'])}, not {self.capacity}"
            )
        added, moved = len(s["targets"]), dict[str, np.ndarray]()
        if "forgotten" in s and len(s["forgotten"]):  # an earlier version forgot none
            self.forget_items(s["forgotten"])
            kept = int(s["kept"])
            order = self._ordered()[len(self) - kept :]
            moved = {name: array[order] for name, array in self._arrays.items()}
        self._new, self._forgotten = 0, np.zeros(0, np.int64)
        self._total = int(s["total"])
        self._reserve(len(self))
        for name, stayed in moved.items():
            self._arrays[name][self._ordered()[:kept]] = stayed
        places_B = np.arange(self._total - added, self._total) % self.capacity
        columns = np.arange(HISTORY_LENGTH)
        known_BL = columns >= HISTORY_LENGTH - s["history_lengths"][:, None]
        width = self._arrays["neighbour_rows"].shape[1]
        near_BK = np.arange(width) < s["neighbour_counts"][:, None]
        for name, values, mask in (
            # an earlier version did not keep whose they are
            ("users", s.get("users", NOBODY), None),
            ("targets", s["targets"], None),
            ("times", s["times"], None),
            ("history_rows", s["history_rows"], known_BL),
            ("history_times", s["history_times"], known_BL),
            ("neighbour_rows", s["neighbour_rows"], near_BK),
            ("neighbour_scores", s["neighbour_scores"], near_BK),
        ):
            array = self._arrays[name]
            if mask is None:
                array[places_B] = values
                continue
            fill = NO_ROW if name.endswith("rows") else 0
            full = np.full((added, *array.shape[1:]), fill, array.dtype)
            full[mask] = values
            array[places_B] = full


def _together(
    values_bX: np.ndarray, known_bX: np.ndarray, fill: int, to_the_right: bool
) -> np.ndarray:
    """The known values of each row side by side at one end, in order, and `fill` elsewhere."""
    columns = np.arange(known_bX.shape[1])
    lengths_b1 = known_bX.sum(axis=1)[:, None]
    there_bX = columns >= len(columns) - lengths_b1 if to_the_right else columns < lengths_b1
    moved_bX = np.full_like(values_bX, fill)
    moved_bX[there_bX] = values_bX[known_bX]
    return moved_bX
