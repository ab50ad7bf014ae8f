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

    def __init__(self) -> None:
        self._users = np.empty(0, np.int64)
        self._positions = np.empty(0, np.int64)
        self._recent: dict[int, int] = {}
        self._unsaved: set[int] = set()

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
        self._unsaved.add(user)
        if len(self._recent) >= MERGE_AT:
            self._merge()

    def forget(self, user: int) -> None:
        """Know nothing of a user any more; what is saved next is to be everything."""
        self[user] = 0

    def _merge(self) -> None:
        users = np.fromiter(self._recent.keys(), np.int64, len(self._recent))
        positions = np.fromiter(self._recent.values(), np.int64, len(self._recent))
        self._recent = {}
        self._put(users, positions)

    def _put(self, users: np.ndarray, positions: np.ndarray) -> None:
        if len(users) == 0:
            return
        users = np.concatenate([users, self._users])  # the new one comes first and is kept
        positions = np.concatenate([positions, self._positions])
        users, first = np.unique(users, return_index=True)
        positions = positions[first]
        known = positions > 0  # a user who was forgotten is not
        self._users, self._positions = users[known], positions[known]

    def changes(self, whole: bool) -> dict[str, np.ndarray]:
        """What was set since the last call, for `apply`; `whole`: everything.

        `users` and `positions`, both int64 (users,), ascending.
        """
        if whole:
            self._merge()
            found = self._users, self._positions
        else:
            users = np.sort(np.fromiter(self._unsaved, np.int64, len(self._unsaved)))
            found = users, np.array([self[user] for user in users.tolist()], np.int64)
        self._unsaved.clear()
        return dict(zip(("users", "positions"), found, strict=True))

    def apply(self, changes: Mapping[str, np.ndarray]) -> None:
        """Take over what `changes` gave, on top of what was given before it."""
        users, positions = changes["users"], changes["positions"]
        if len(users) >= MERGE_AT:
            self._merge()
            self._put(users, positions)
            return
        self._recent.update(zip(users.tolist(), positions.tolist(), strict=True))
        if len(self._recent) >= MERGE_AT:
            self._merge()
