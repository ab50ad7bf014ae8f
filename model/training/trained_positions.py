"""The last trained position of every user: what makes a repeated sequence recognisable."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

MERGE_AT = 65_536


class TrainedPositions:
    """A map of user id (int64) to position (int64), 16 bytes per user at rest.

    Recent changes live in a dict and are merged into two sorted arrays from time to time, so ten
    million users take 160 MB, not gigabytes.

    >>> positions = TrainedPositions()
    >>> positions[7] = 3
    >>> positions[7], positions[8]
    (3, 0)
    """

    def __init__(self, arrays: Mapping[str, np.ndarray] | None = None) -> None:
        self._users = arrays["users"] if arrays else np.empty(0, np.int64)
        self._positions = arrays["positions"] if arrays else np.empty(0, np.int64)
        self._recent: dict[int, int] = {}

    def __getitem__(self, user: int) -> int:
        """The last trained position of a user, 0 if there is none."""
        recent = self._recent.get(user)
        if recent is not None:
            return recent
        row = int(self._users.searchsorted(user))
        if row < len(self._users) and self._users[row] == user:
            return int(self._positions[row])
        return 0

    def __setitem__(self, user: int, position: int) -> None:
        self._recent[user] = position
        if len(self._recent) >= MERGE_AT:
            self._merge()

    def _merge(self) -> None:
        users = np.fromiter(self._recent.keys(), np.int64, len(self._recent))
        positions = np.fromiter(self._recent.values(), np.int64, len(self._recent))
        self._recent = {}
        users = np.concatenate([users, self._users])  # the recent one comes first and is kept
        positions = np.concatenate([positions, self._positions])
        self._users, first = np.unique(users, return_index=True)
        self._positions = positions[first]

    def arrays(self) -> dict[str, np.ndarray]:
        """State for a checkpoint: `users` ascending and `positions`, both int64 (users,)."""
        if self._recent:
            self._merge()
        return {"users": self._users, "positions": self._positions}
