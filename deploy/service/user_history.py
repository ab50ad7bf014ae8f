"""A user's history: the last clicks, as sequences tell them and as they are stored."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from streaming.events import HISTORY_LENGTH, Forgotten, UserSequence

_NUMBERS = "<i8"


class UserHistory(NamedTuple):
    """A user's last clicks, oldest first, at most 50; `times` in milliseconds.

    `position` counts all clicks of the user, the last of `items` being that one.
    """

    position: int
    items: list[int]
    times: list[int]

    def value(self) -> bytes:
        """As it is stored: position, item ids, times."""
        return np.array([self.position, *self.items, *self.times], _NUMBERS).tobytes()

    @classmethod
    def of(cls, value: bytes) -> UserHistory:
        """From what is stored."""
        numbers = np.frombuffer(value, _NUMBERS).tolist()
        middle = 1 + len(numbers) // 2
        return cls(numbers[0], numbers[1:middle], numbers[middle:])


def position_of(value: bytes) -> int:
    """The position of a history that is stored, without the rest."""
    return int(np.frombuffer(value, _NUMBERS, 1)[0])


def newest_histories(
    records: Iterable[UserSequence | Forgotten],
) -> tuple[dict[int, UserHistory], dict[int, list[str]]]:
    """The history of each user, after the last of their clicks, and who was forgotten by what."""
    newest: dict[int, UserHistory] = {}
    forgotten: dict[int, list[str]] = {}
    for sequence in records:
        if isinstance(sequence, Forgotten):
            newest.pop(sequence.user_id, None)
            forgotten.setdefault(sequence.user_id, []).append(sequence.event_id)
            continue
        known = newest.get(sequence.user_id)
        if known is None or sequence.position >= known.position:
            newest[sequence.user_id] = UserHistory(
                sequence.position,
                [*sequence.history_items, sequence.target][-HISTORY_LENGTH:],
                [*sequence.history_times, sequence.event_time][-HISTORY_LENGTH:],
            )
    return newest, forgotten
