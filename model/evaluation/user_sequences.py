"""What the streaming job makes of a log: a user sequence for each event, worked out from the file.

The same `UserSequence`s, in the same order for each user, as the Flink job writes to `sequences`;
a test compares both. Only the identity of the event is left empty: nothing is learnt from it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from model.evaluation.protocol import Events
from streaming.events import HISTORY_LENGTH, UserSequence


class SequencesOfUsers:
    """Remembers what every user has taken, and gives each event its history."""

    def __init__(self) -> None:
        self._past: defaultdict[int, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))

    def take(self, events: Events) -> Iterator[UserSequence]:
        """The sequence of each event, which becomes part of the histories after it."""
        columns = (events.users_E.tolist(), events.items_E.tolist(), events.times_E.tolist())
        for user, item, time in zip(*columns, strict=True):
            items, times = self._past[user]
            yield UserSequence(
                event_id="",
                user_id=user,
                event_time=time,
                position=len(items) + 1,
                history_items=items[-HISTORY_LENGTH:],
                history_times=times[-HISTORY_LENGTH:],
                target=item,
            )
            items.append(item)
            times.append(time)
