"""How many places of an answer each searched code gets."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def quotas(
    weights_BS: NDArray[np.floating], room_BS: NDArray[np.int64], k: int
) -> NDArray[np.int64]:
    """Shares k places among S lists by weight, by largest remainder, none above its room.

    What a full list cannot take goes to the others by their weights; all of `room_BS` is given
    where it holds less than k.

    >>> quotas(np.array([[0.5, 0.32, 0.18]]), np.array([[9, 9, 9]]), 4).tolist()
    [[2, 1, 1]]
    >>> quotas(np.array([[0.5, 0.3, 0.2]]), np.array([[1, 9, 9]]), 6).tolist()
    [[1, 3, 2]]
    """
    wanted_B = np.minimum(k, room_BS.sum(axis=1))
    weights_BS = np.maximum(weights_BS.astype(np.float64), 1e-12)
    full_BS = room_BS <= 0
    while True:
        left_B1 = (wanted_B - np.where(full_BS, room_BS, 0).sum(axis=1))[:, None]
        open_BS = np.where(full_BS, 0.0, weights_BS)
        ideal_BS = left_B1 * open_BS / np.maximum(open_BS.sum(axis=1, keepdims=True), 1e-12)
        filled_BS = ~full_BS & (ideal_BS >= room_BS)
        if not filled_BS.any():
            break
        full_BS |= filled_BS
    given_BS = np.where(full_BS, room_BS, np.floor(ideal_BS)).astype(np.int64)
    remainder_BS = np.where(full_BS, -1.0, ideal_BS - np.floor(ideal_BS))
    rank_BS = np.argsort(np.argsort(-remainder_BS, axis=1, kind="stable"), axis=1, kind="stable")
    return given_BS + (rank_BS < (wanted_B - given_BS.sum(axis=1))[:, None])
