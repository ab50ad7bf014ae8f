"""Small made-up logs, and a clock that moves only when somebody waits."""

from __future__ import annotations

import threading

import numpy as np

from streaming.events import HISTORY_LENGTH, UserSequence
from streaming.items import Item


def make_log(
    events: int, users: int = 17, items: int = 40, partitions: int = 2, seed: int = 0
) -> tuple[list[list[UserSequence]], list[Item]]:
    """Sequences by partition, in event-time order, and the catalogue."""
    random = np.random.default_rng(seed)
    history: dict[int, list[tuple[int, int]]] = {}
    sequences: list[list[UserSequence]] = [[] for _ in range(partitions)]
    for n in range(events):
        user = int(random.integers(users))
        target = int(random.zipf(1.5)) % items + 1
        past = history.setdefault(user, [])
        sequences[user % partitions].append(
            UserSequence(
                f"{n:032x}",
                user,
                1000 * n,
                len(past) + 1,
                [i for i, _ in past[-HISTORY_LENGTH:]],
                [t for _, t in past[-HISTORY_LENGTH:]],
                target,
            )
        )
        past.append((target, 1000 * n))
    return sequences, [Item(i, f"title {i}") for i in range(1, items + 1)]


class SteppedClock:
    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def wait(self, stop: threading.Event, seconds: float) -> None:
        self.time += seconds
