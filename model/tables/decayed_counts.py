"""Time-decayed counts: the recency prior of items and of codes.

Items come in bursts, so how often an item was clicked lately is strong evidence for any model of
p(item | user). A count decays by half in each half-life. It is stored with the time of its last
change and brought forward when it is read, so nothing overflows and untouched rows cost nothing.

A model trained on replayed events must see the counts *of their time*: with today's it would
learn that the past was predictable. The values after every event are therefore kept in a log
(bounded, like the replay buffer), from which counts at any earlier time are read by bisection.
Shapes: N rows, S rows at hand, H half-lives, G clocks, E logged events.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from model.tables.capacity import with_room
from model.tables.touched_rows import CHECKPOINT, PUBLICATION, TouchedRows
from streaming.bounds import DAY_MS

_SECONDS = 34
"""Bits of a log key that hold the time in seconds; the row is above them."""
_LAST = (1 << _SECONDS) - 1
"""The second (in the year 2514) that stands for all later ones: a later one would be a row."""


class Popularity:
    """Decayed counts of rows under several half-lives (days).

    >>> p = Popularity((1.0,), log_size=10)
    >>> p.grow(2)
    >>> p.add(np.array([1, 1]), np.array([0, DAY_MS]))
    >>> p.current(2 * DAY_MS).tolist()
    [[0.0], [0.75]]
    >>> p.before(np.array([DAY_MS]), np.array([1])).tolist()
    [[[0.5]]]
    """

    def __init__(self, half_lives_days: tuple[float, ...], log_size: int) -> None:
        self._rate_H = _rates(half_lives_days)
        self._log_size = log_size
        self._counts_NH = np.zeros((0, len(half_lives_days)))
        self._times_N = np.zeros(0, dtype=np.int64)
        self._keys_E = np.zeros(0, dtype=np.int64)
        self._logged_EH = np.zeros((0, len(half_lives_days)), dtype=np.float32)
        self._origin_E = np.zeros(0, dtype=np.int32)  # place in the log last saved; -1: new
        self._saved_log = 0
        self._size = 0
        self.touched = TouchedRows()
        self._total = 0.0
        self._total_time = 0

    def grow(self, size: int) -> None:
        """Make room for `size` rows, new ones with zero counts."""
        self._counts_NH = with_room(self._counts_NH, size)
        self._times_N = with_room(self._times_N, size)
        self._size = max(size, self._size)

    def add(self, rows_E: np.ndarray, times_E: np.ndarray) -> None:
        """Count events in order of arrival; a late one enters as old as it is."""
        keys = np.empty(len(rows_E), dtype=np.int64)
        logged = np.empty((len(rows_E), len(self._rate_H)), dtype=np.float32)
        # a few plain numbers at a time, which arrays would be slower for
        rates, counts, times = self._rate_H.tolist(), {}, {}
        for row in set(rows_E.tolist()):
            counts[row], times[row] = self._counts_NH[row].tolist(), int(self._times_N[row])
        for e, (row, time) in enumerate(zip(rows_E.tolist(), times_E.tolist(), strict=True)):
            before, last = times[row], max(times[row], time)
            counts[row] = [
                count * 2.0 ** ((before - last) * rate) + 2.0 ** ((time - last) * rate)
                for count, rate in zip(counts[row], rates, strict=True)
            ]
            times[row] = last
            newest = max(self._total_time, time)
            self._total *= 2.0 ** ((self._total_time - newest) * rates[-1])
            self._total += 2.0 ** ((time - newest) * rates[-1])
            self._total_time = newest
            keys[e] = (row << _SECONDS) + min(last // 1000, _LAST)
            logged[e] = counts[row]
        for row, values in counts.items():
            self._counts_NH[row], self._times_N[row] = values, times[row]
        order = np.argsort(keys, kind="stable")
        places = np.searchsorted(self._keys_E, keys[order], side="right")
        self._keys_E = np.insert(self._keys_E, places, keys[order])
        self._logged_EH = np.insert(self._logged_EH, places, logged[order], axis=0)
        self._origin_E = np.insert(self._origin_E, places, -1)
        self.touched.mark(rows_E)
        if len(self._keys_E) > self._log_size:
            self._trim(self._log_size * 3 // 4)

    def forget(self, rows_n: np.ndarray) -> None:
        """Distinct rows have had no event; what is counted of all together fades as it did."""
        self._counts_NH[rows_n], self._times_N[rows_n] = 0, 0
        self._keep(np.flatnonzero(~np.isin(self._keys_E >> _SECONDS, rows_n)))
        self.touched.mark(rows_n)

    def _trim(self, keep: int) -> None:
        seconds_E = self._keys_E & _LAST
        newest = np.sort(np.argsort(seconds_E, kind="stable")[len(seconds_E) - keep :])
        self._keep(newest)

    def _keep(self, places: np.ndarray) -> None:
        """Keep these entries of the log, in order, and no others."""
        self._keys_E, self._logged_EH = self._keys_E[places], self._logged_EH[places]
        self._origin_E = self._origin_E[places]

    def current(self, now_ms: int) -> np.ndarray:
        """Counts of all rows now: (N, H) float32. A clock behind the newest event is no gain."""
        counts_NH, times_N = self._counts_NH[: self._size], self._times_N[: self._size]
        return _decayed(counts_NH, times_N, now_ms, self._rate_H)

    def stored(self, rows_n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Counts of rows as they are kept, (n, H) float64, and the times (n,) of which they are."""
        return self._counts_NH[rows_n], self._times_N[rows_n]

    def seen(self, rows_S: np.ndarray) -> np.ndarray:
        """True for rows that have had an event."""
        return self._counts_NH[rows_S, -1] > 0

    def latest(self, rows_S: np.ndarray, now_ms: int) -> tuple[np.ndarray, float]:
        """Counts of rows now under the longest half-life, (S,) float64, and the sum of all."""
        age = np.maximum(now_ms - self._total_time, 0)
        total = self._total * np.exp2(-age * self._rate_H[-1])
        age_S = np.maximum(now_ms - self._times_N[rows_S], 0)
        return self._counts_NH[rows_S, -1] * np.exp2(-age_S * self._rate_H[-1]), float(total)

    def before(self, times_G: np.ndarray, rows_S: np.ndarray) -> np.ndarray:
        """Counts of rows from events strictly before each clock (to the second): (G, S, H) f32."""
        seconds_G1 = np.minimum(times_G[:, None] // 1000, _LAST)
        keys_GS = (rows_S[None, :] << _SECONDS) + seconds_G1
        if len(self._keys_E) == 0:
            return np.zeros((*keys_GS.shape, len(self._rate_H)), dtype=np.float32)
        # most clocks are behind the last event of a row; the others are looked for
        last_S = np.searchsorted(self._keys_E, (rows_S + 1) << _SECONDS) - 1
        place_GS = np.broadcast_to(last_S, keys_GS.shape).copy()
        behind_GS = self._keys_E[last_S] >= keys_GS
        place_GS[behind_GS] = np.searchsorted(self._keys_E, keys_GS[behind_GS]) - 1
        found_GS = self._keys_E[place_GS]
        valid_GS = (place_GS >= 0) & (found_GS >> _SECONDS == rows_S[None, :])
        age_GS = np.where(valid_GS, keys_GS - found_GS, 0).astype(np.float32) * np.float32(1000)
        # torch's exponential is some times as quick as numpy's
        age_GSH = torch.from_numpy(age_GS)[:, :, None] * torch.from_numpy(self._rate_H).float()
        counts_GSH = self._logged_EH[place_GS]
        counts_GSH *= age_GSH.neg_().exp2_().numpy()
        counts_GSH *= valid_GS[:, :, None]
        return counts_GSH

    def changes(self, whole: bool) -> dict[str, Tensor]:
        """What events changed since the last call, for `apply`; `whole`: all that any event left.

        Of the log, what was added, and one bit for each entry of before: whether it is still there.
        """
        touched_n = self.touched.take(CHECKPOINT)
        rows_n = np.flatnonzero(self._counts_NH[: self._size, -1] > 0) if whole else touched_n
        added_E = np.ones(len(self._keys_E), np.bool_) if whole else self._origin_E < 0
        kept = np.zeros(0 if whole else self._saved_log, np.bool_)
        kept[self._origin_E[~added_E]] = True
        self._log_saved()
        arrays = {
            "size": np.asarray(self._size),
            "rows": rows_n,
            "counts": self._counts_NH[rows_n],
            "times": self._times_N[rows_n],
            "unpublished": self.touched.rows(PUBLICATION),
            "kept_of": np.asarray(len(kept)),
            "kept": np.packbits(kept),
            "keys": self._keys_E[added_E],
            "logged": self._logged_EH[added_E],
            "total": np.asarray(self._total),
            "total_time": np.asarray(self._total_time),
        }
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def _log_saved(self) -> None:
        """From here on the log's changes are counted."""
        self._saved_log = len(self._keys_E)
        self._origin_E = np.arange(self._saved_log, dtype=np.int32)

    def apply(self, changes: dict[str, Tensor]) -> None:
        """Take over what `changes` gave, on top of what was given before it.

        Raises:
            ValueError: if something is missing between the two.
        """
        c = {name: value.numpy() for name, value in changes.items()}
        self.grow(int(c["size"]))
        self._counts_NH[c["rows"]], self._times_N[c["rows"]] = c["counts"], c["times"]
        kept = np.unpackbits(c["kept"], count=int(c["kept_of"])).astype(np.bool_)
        if len(kept) not in (0, len(self._keys_E)):
            raise ValueError(f"{len(kept)} entries of a log of {len(self._keys_E)}")
        old = kept if len(kept) else np.zeros(len(self._keys_E), np.bool_)
        keys_E = np.concatenate([self._keys_E[old], c["keys"]])
        logged_EH = np.concatenate([self._logged_EH[old], c["logged"]])
        order = np.argsort(keys_E, kind="stable")  # of one key, the older entry comes first
        self._keys_E, self._logged_EH = keys_E[order], logged_EH[order]
        self._log_saved()
        self._total, self._total_time = float(c["total"]), int(c["total_time"])
        self.touched.load(c["unpublished"])


def decayed(
    counts_NH: np.ndarray, times_N: np.ndarray, now_ms: int, half_lives_days: Sequence[float]
) -> np.ndarray:
    """Counts of these times brought forward to a clock: (N, H) float32."""
    return _decayed(counts_NH, times_N, now_ms, _rates(half_lives_days))


def _rates(half_lives_days: Sequence[float]) -> np.ndarray:
    return 1.0 / (np.asarray(half_lives_days, dtype=np.float64) * DAY_MS)


def _decayed(
    counts_NH: np.ndarray, times_N: np.ndarray, now_ms: int, rate_H: np.ndarray
) -> np.ndarray:
    age_N1 = np.maximum(now_ms - times_N[:, None], 0)
    return (counts_NH * np.exp2(-age_N1 * rate_H)).astype(np.float32)


def log_counts(counts: np.ndarray) -> np.ndarray:
    """The feature made of a count: log(1 + c), 0 for nothing, finite and additive in logits."""
    return np.log1p(counts).astype(np.float32)
