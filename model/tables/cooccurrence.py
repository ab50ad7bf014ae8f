"""Neighbours of items: who was clicked by the same users, lately.

A count-based memory beside the learned one: a pair of items is known after one event, which a
gradient step on an embedding cannot do. Each item keeps the `slots` neighbours of greatest
decayed weight; the weakest give way to new ones. The scores of a history's neighbours enter
log p(i | u, c) and the interest head as evidence.
Shapes: N items, S of them with neighbours, M slots, H half-lives, B users, L history length, P
pairs, K neighbours kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.histories import NO_ROW, HistoryBatch
from model.tables.capacity import with_room
from model.tables.touched_rows import CHECKPOINT, PUBLICATION, TouchedRows
from streaming.bounds import DAY_MS


@dataclass(frozen=True)
class CooccurrenceConfig:
    """Settings of the neighbour memory.

    Attributes:
        half_lives_days: of the pair counts; slots are kept by the last one. Links fade like a
            power of their age (fast for days, then ever slower), which a learned mixture of
            half-lives can follow.
        slots: neighbours kept of each item.
        window: newest history events that are paired with a target, and that are looked up.
        gap_decay: weight of a pair for each event of the user's between the two.
        backward: weight of the link from the later item of a pair to the earlier one; that from the
            earlier to the later has 1.
        rank_decay: weight of an event for each newer one when a history is looked up.
        source_power: power of an event's total weight by which its links are divided.
        answers: neighbours kept of a history.
    """

    half_lives_days: tuple[float, ...] = (1.5, 6.0, 30.0, 150.0)
    slots: int = 48
    window: int = 20
    gap_decay: float = 1.0
    backward: float = 1.0
    rank_decay: float = 0.85
    source_power: float = 0.5
    answers: int = 64


class Slots(NamedTuple):
    """Neighbours of E items: rows (E, M) (`NO_ROW` where a slot is empty), weights, their times.

    Weights are float32 (E, M, H) as of `times_E` (ms).
    """

    rows_EM: np.ndarray
    weights_EMH: np.ndarray
    times_E: np.ndarray


class RaggedSlots(NamedTuple):
    """The same of k items, one after the other.

    Attributes:
        starts_K: int64 (k + 1), where the slots of each begin among P, and the end.
        rows_P: int32, `NO_ROW` where a slot is empty.
        weights_PH: float32, as of `times_k`.
        times_k: int64 ms.
    """

    starts_K: np.ndarray
    rows_P: np.ndarray
    weights_PH: np.ndarray
    times_k: np.ndarray


class Neighbours(NamedTuple):
    """Neighbours of histories: `rows_BK` (`NO_ROW` padded) and their `scores_BKH`.

    A score is the sum over the history's events of the link's weight, divided by a power of one
    plus the event's total weight: who is linked with everybody says little.
    """

    rows_BK: np.ndarray
    scores_BKH: np.ndarray


class Cooccurrence:
    """Bounded, decayed item-item counts, both directions.

    >>> memory = Cooccurrence(CooccurrenceConfig(half_lives_days=(1.0,), slots=2))
    >>> memory.grow(3)
    >>> history = HistoryBatch(np.array([[0]]), np.array([[0]]))
    >>> memory.add(history, np.array([2]), np.array([0]))
    >>> memory.look_up(history, np.array([DAY_MS])).rows_BK.tolist()
    [[2]]
    >>> memory.look_up(history, np.array([DAY_MS])).scores_BKH.round(3)  # 0.5 / sqrt(1.5)
    array([[[0.408]]], dtype=float32)
    """

    def __init__(self, config: CooccurrenceConfig) -> None:
        self.config = config
        self._rate_H = 1.0 / (np.asarray(config.half_lives_days, dtype=np.float64) * DAY_MS)
        h = len(config.half_lives_days)
        self._size = 0
        self._place_N = np.zeros(0, dtype=np.int32)
        """Where an item's slots are; `NO_ROW`: it has none."""
        self._held = 0
        self._free: list[int] = []
        """Places below `_held` that are nobody's any more."""
        self._rows_SM = np.zeros((0, config.slots), dtype=np.int32)
        self._weights_SMH = np.zeros((0, config.slots, h), dtype=np.float32)
        self._times_S = np.zeros(0, dtype=np.int64)
        self.touched = TouchedRows()

    def grow(self, size: int) -> None:
        """Make room for `size` items."""
        self._place_N = with_room(self._place_N, size, NO_ROW)
        self._size = max(self._size, size)

    def _places(self, rows_R: np.ndarray) -> np.ndarray:
        """Where the slots of distinct items are, new ones where they have none yet."""
        new_r = rows_R[self._place_N[rows_R] == NO_ROW]
        again = [self._free.pop() for _ in range(min(len(self._free), len(new_r)))]
        end = self._held + len(new_r) - len(again)
        self._rows_SM = with_room(self._rows_SM, end, NO_ROW)
        self._weights_SMH = with_room(self._weights_SMH, end)
        self._times_S = with_room(self._times_S, end)
        self._place_N[new_r] = [*again, *range(self._held, end)]
        self._held = end
        return self._place_N[rows_R]

    def forget(self, rows_n: np.ndarray) -> None:
        """Distinct items have no neighbours any more, and are nobody's; a pass over all slots."""
        gone = np.zeros(self._size + 1, np.bool_)  # the last one answers for NO_ROW
        gone[rows_n] = True
        owners = self.items()
        found_eM = gone[self._rows_SM[self._place_N[owners]]]
        found_eM[gone[owners]] = True
        named = found_eM.any(axis=1)
        owners, found_eM = owners[named], found_eM[named]
        places = self._place_N[owners]
        rows_eM, weights_eMH = self._rows_SM[places], self._weights_SMH[places]
        rows_eM[found_eM], weights_eMH[found_eM] = NO_ROW, 0
        self._rows_SM[places], self._weights_SMH[places] = rows_eM, weights_eMH
        self._release(owners[(rows_eM == NO_ROW).all(axis=1)])
        self.touched.mark(np.append(rows_n, owners))

    def _release(self, rows_n: np.ndarray) -> None:
        """Items that have no neighbours give back their places, which are empty."""
        places = self._place_N[rows_n]
        places = places[places != NO_ROW]
        self._place_N[rows_n] = NO_ROW
        self._times_S[places] = 0
        self._free += places.tolist()

    def add(self, histories: HistoryBatch, targets_B: np.ndarray, times_B: np.ndarray) -> None:
        """Pair each target with its history's newest events, at the target's time."""
        recent_BL = histories.rows_BL[:, -self.config.window :]
        owner_P, column_P = np.nonzero((recent_BL != NO_ROW) & (recent_BL != targets_B[:, None]))
        if len(owner_P) == 0:
            return
        other_P = recent_BL[owner_P, column_P]
        item_P = np.concatenate([targets_B[owner_P], other_P])
        neighbour_P = np.concatenate([other_P, targets_B[owner_P]])
        time_P = np.tile(times_B[owner_P], 2)
        near_P = self.config.gap_decay ** (recent_BL.shape[1] - 1 - column_P)
        share_P = np.concatenate([self.config.backward * near_P, near_P])
        # bring the rows that are touched to one clock, the newest time at hand
        rows_R = np.unique(item_P)
        place_R = self._places(rows_R)
        self.touched.mark(rows_R)
        now = max(int(times_B.max()), int(self._times_S[place_R].max()))
        age_R = (now - self._times_S[place_R])[:, None, None]
        self._weights_SMH[place_R] *= np.exp2(-age_R * self._rate_H).astype(np.float32)
        self._times_S[place_R] = now
        # one entry for each distinct pair
        pair_P = item_P * np.int64(1 << 32) + neighbour_P
        weight_PH = np.exp2(-(now - time_P)[:, None] * self._rate_H) * share_P[:, None]
        weight_PH = weight_PH.astype(np.float32)
        pair_U, weight_UH = _sum_by_key(pair_P, weight_PH)
        place_U, neighbour_U = self._place_N[pair_U >> 32], pair_U & 0xFFFFFFFF
        same_UM = self._rows_SM[place_U] == neighbour_U[:, None]
        known_U = same_UM.any(1)
        slot_U = same_UM[known_U].argmax(1)
        self._weights_SMH[place_U[known_U], slot_U] += weight_UH[known_U]
        self._insert(place_U[~known_U], neighbour_U[~known_U], weight_UH[~known_U])

    def _insert(self, place_U: np.ndarray, neighbour_U: np.ndarray, weight_UH: np.ndarray) -> None:
        """Give the new neighbours of each item's place, heaviest first, its weakest slots.

        A newcomer takes a slot even from a somewhat heavier old neighbour: else an item whose
        slots are full could never change its neighbours (the same rule as in Space-Saving,
        Metwally et al., ICDT 2005, but without its over-count).
        """
        if len(place_U) == 0:
            return
        order = np.lexsort((-weight_UH[:, -1], place_U))
        place_U, neighbour_U, weight_UH = place_U[order], neighbour_U[order], weight_UH[order]
        places_R, first_R = np.unique(place_U, return_index=True)
        index_U = np.searchsorted(places_R, place_U)
        rank_U = np.arange(len(place_U)) - first_R[index_U]
        weakest_RM = np.argsort(self._weights_SMH[places_R][:, :, -1], axis=1, kind="stable")
        fits_U = rank_U < max(1, self.config.slots // 2)
        slot_U = weakest_RM[index_U[fits_U], rank_U[fits_U]]
        self._rows_SM[place_U[fits_U], slot_U] = neighbour_U[fits_U]
        self._weights_SMH[place_U[fits_U], slot_U] = weight_UH[fits_U]

    def look_up(self, histories: HistoryBatch, now_B: np.ndarray) -> Neighbours:
        """Neighbours of each history's newest events, best first by the sum of their scores."""
        return look_up(self.config, self.slots, histories, now_B)

    def slots(self, rows_E: np.ndarray) -> Slots:
        """What is kept of items."""
        place_E = self._place_N[rows_E]
        held_e = np.flatnonzero(place_E != NO_ROW)
        place_e = place_E[held_e]
        M, H = self._weights_SMH.shape[1:]
        found = Slots(
            np.full((len(rows_E), M), NO_ROW, np.int32),
            np.zeros((len(rows_E), M, H), np.float32),
            np.zeros(len(rows_E), np.int64),
        )
        found.rows_EM[held_e] = self._rows_SM[place_e]
        found.weights_EMH[held_e] = self._weights_SMH[place_e]
        found.times_E[held_e] = self._times_S[place_e]
        return found

    def items(self) -> np.ndarray:
        """Rows of the items that have neighbours, ascending."""
        return np.flatnonzero(self._place_N[: self._size] != NO_ROW)

    def ragged(self, rows_k: np.ndarray) -> RaggedSlots:
        """What is kept of items, without the empty slots at the end."""
        found = self.slots(rows_k)
        filled_kM = found.rows_EM != NO_ROW
        M = filled_kM.shape[1]
        lengths_k = np.where(filled_kM.any(axis=1), M - filled_kM[:, ::-1].argmax(axis=1), 0)
        kept_kM = np.arange(M) < lengths_k[:, None]
        starts_K = np.append(0, np.cumsum(lengths_k))
        weights_PH = found.weights_EMH[kept_kM]
        return RaggedSlots(starts_K, found.rows_EM[kept_kM], weights_PH, found.times_E)

    def changes(self, whole: bool) -> dict[str, Tensor]:
        """Slots of the items that changed since the last call, for `apply`; `whole`: all."""
        rows_k = self.touched.take(CHECKPOINT)
        rows_k = self.items() if whole else rows_k
        arrays = {
            "size": np.asarray(self._size),
            "items": rows_k,
            "unpublished": self.touched.rows(PUBLICATION),
            **self.ragged(rows_k)._asdict(),
        }
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def apply(self, changes: dict[str, Tensor]) -> None:
        """Take over what `changes` gave, on top of what was given before it."""
        c = {name: value.numpy() for name, value in changes.items()}
        self.grow(int(c["size"]))
        place_k = self._places(c["items"])
        lengths_k = np.diff(c["starts_K"])
        filled_kM = np.arange(self.config.slots) < lengths_k[:, None]
        rows_kM = np.full(filled_kM.shape, NO_ROW, np.int32)
        rows_kM[filled_kM] = c["rows_P"]
        weights_kMH = np.zeros((*filled_kM.shape, len(self._rate_H)), np.float32)
        weights_kMH[filled_kM] = c["weights_PH"]
        self._rows_SM[place_k], self._weights_SMH[place_k] = rows_kM, weights_kMH
        self._times_S[place_k] = c["times_k"]
        self._release(c["items"][lengths_k == 0])
        self.touched.load(c["unpublished"])


def look_up(
    config: CooccurrenceConfig,
    slots: Callable[[np.ndarray], Slots],
    histories: HistoryBatch,
    now_B: np.ndarray,
) -> Neighbours:
    """`Cooccurrence.look_up` in what `slots` gives of items; those of the history are left out."""
    rate_H = 1.0 / (np.asarray(config.half_lives_days, dtype=np.float64) * DAY_MS)
    recent_BL = histories.rows_BL[:, -config.window :]
    batch, length = recent_BL.shape
    owner_E, column_E = np.nonzero(recent_BL != NO_ROW)
    event_E = recent_BL[owner_E, column_E]
    neighbour_EM, weight_EMH, times_E = slots(event_E)
    age_EH = np.maximum(now_B[owner_E] - times_E, 0)[:, None] * rate_H
    place_E1 = config.rank_decay ** (length - 1 - column_E)[:, None]
    fade_EH = np.exp2(-age_EH).astype(np.float32)
    weight_EMH = weight_EMH * fade_EH[:, None, :]
    total_EH = (1 + weight_EMH.sum(1)) ** config.source_power
    weight_EMH *= (place_E1 / total_EH).astype(np.float32)[:, None, :]
    filled_EM = neighbour_EM != NO_ROW
    owner_P = np.broadcast_to(owner_E[:, None], filled_EM.shape)[filled_EM]
    key_P = owner_P * np.int64(1 << 32) + neighbour_EM[filled_EM]
    key_U, score_UH = _sum_by_key(key_P, weight_EMH[filled_EM])
    new_U = np.ones(len(key_U), dtype=bool)
    own_E = owner_E * np.int64(1 << 32) + event_E  # few, beside what was kept of all of them
    place_E = np.searchsorted(key_U, own_E)
    there_E = place_E < len(key_U)
    there_E[there_E] = key_U[place_E[there_E]] == own_E[there_E]
    new_U[place_E[there_E]] = False
    key_U, score_UH = key_U[new_U], score_UH[new_U]
    owner_U, neighbour_U = key_U >> 32, key_U & 0xFFFFFFFF
    # scores are not negative: their bits order as they do, and whole numbers are sorted quicker
    bits_U = score_UH.sum(1).view(np.int32).astype(np.int64)
    order = _stable_order((owner_U << 32) - bits_U)
    owner_U, neighbour_U, score_UH = owner_U[order], neighbour_U[order], score_UH[order]
    counts_B = np.bincount(owner_U, minlength=batch)
    rank_U = np.arange(len(owner_U)) - (np.cumsum(counts_B) - counts_B)[owner_U]
    width = min(config.answers, max(1, int(counts_B.max(initial=0))))
    keep = rank_U < width
    rows_BK = np.full((batch, width), NO_ROW, dtype=np.int64)
    scores_BKH = np.zeros((batch, width, len(rate_H)), dtype=np.float32)
    rows_BK[owner_U[keep], rank_U[keep]] = neighbour_U[keep]
    scores_BKH[owner_U[keep], rank_U[keep]] = score_UH[keep]
    return Neighbours(rows_BK, scores_BKH)


def _sum_by_key(key_P: np.ndarray, value_PH: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct keys, ascending, and the sums of their values."""
    if len(key_P) == 0:
        return key_P, value_PH
    order = _stable_order(key_P)
    sorted_P = key_P[order]
    starts = np.flatnonzero(np.concatenate([[True], sorted_P[1:] != sorted_P[:-1]]))
    # torch gathers and adds in a part of the time that numpy's `reduceat` takes
    sums_UH = torch.nn.functional.embedding_bag(
        torch.from_numpy(order),
        torch.from_numpy(value_PH),
        torch.from_numpy(starts),
        mode="sum",
    )
    return sorted_P[starts], sums_UH.numpy()


def _stable_order(values_P: np.ndarray) -> np.ndarray:
    """What numpy's stable argsort gives, by torch's, which is some times as quick."""
    return torch.argsort(torch.from_numpy(values_P), stable=True).numpy()
