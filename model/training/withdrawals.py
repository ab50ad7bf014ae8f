"""The items that are withdrawn and not yet forgotten, and since when.

What is known of a withdrawn item is kept for a while: clicks on it go on to say something about
their users, and it may come back. Once the log's clock is a period of grace further, it is
forgotten wholly. The time of a withdrawal is that of its record, so whoever reads the records again
forgets at the same places of the log.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np


class Withdrawals:
    """Times (ms) of withdrawals by item id; no more than were withdrawn within the grace.

    >>> withdrawals = Withdrawals()
    >>> withdrawals.begin({7: 100, 5: 300})
    >>> withdrawals.end([9])
    >>> withdrawals.take(100).tolist(), withdrawals.take(200).tolist()
    ([7], [])
    """

    def __init__(self) -> None:
        self._since: dict[int, int] = {}
        self._unsaved: set[int] = set()

    def begin(self, withdrawn: Mapping[int, int]) -> None:
        """Items are withdrawn, each since its time."""
        self._since.update(withdrawn)
        self._unsaved.update(withdrawn)

    def end(self, item_ids: Iterable[int]) -> None:
        """Items are listed."""
        for item_id in item_ids:
            if self._since.pop(item_id, None) is not None:
                self._unsaved.add(item_id)

    def take(self, until_ms: int) -> np.ndarray:
        """Ids, int64 ascending, of those withdrawn until then, which are known here no more."""
        due = sorted(item_id for item_id, since in self._since.items() if since <= until_ms)
        self.end(due)
        return np.array(due, np.int64)

    def changes(self, whole: bool) -> dict[str, np.ndarray]:
        """What changed since the last call, for `apply`; `whole`: everything."""
        ids = sorted(self._since if whole else self._unsaved)
        self._unsaved.clear()
        there = [item_id for item_id in ids if item_id in self._since]
        return {
            "ids": np.array(there, np.int64),
            "times": np.array([self._since[item_id] for item_id in there], np.int64),
            "ended": np.array([one for one in ids if one not in self._since], np.int64),
        }

    def apply(self, changes: Mapping[str, np.ndarray]) -> None:
        """Take over what `changes` gave, on top of what was given before it."""
        self.end(changes["ended"].tolist())
        self.begin(dict(zip(changes["ids"].tolist(), changes["times"].tolist(), strict=True)))
        self._unsaved.clear()
