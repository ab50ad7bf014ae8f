"""A small stream for the model's tests: users who keep to a taste, items that come and go."""

from __future__ import annotations

import numpy as np

from streaming.events import HISTORY_LENGTH, UserSequence
from streaming.items import Item

DAY_MS = 86_400_000
WORDS = ("soap", "oil", "balm", "brush", "scent", "mask", "nail", "hair", "lip", "cream")


def make_items(count: int, tastes: int = 5, titles: bool = True) -> list[Item]:
    """Items of `tastes` categories whose titles share words within a category."""
    return [
        Item(
            1000 + 7 * n,
            f"{WORDS[n % tastes]} {WORDS[n % tastes + 5]} no {n}" if titles else "",
            str(1 + n % tastes) if titles else "",
        )
        for n in range(count)
    ]


def make_sequences(
    items: list[Item], events: int, users: int = 60, tastes: int = 5, seed: int = 0
) -> list[UserSequence]:
    """Events in time order, twenty a day; nine in ten are of the user's taste."""
    random = np.random.default_rng(seed)
    histories: dict[int, tuple[list[int], list[int]]] = {u: ([], []) for u in range(users)}
    sequences = []
    for e in range(events):
        user = int(random.integers(users))
        taste = user % tastes if random.random() < 0.9 else int(random.integers(tastes))
        # popular items of a taste first, and the popular ones change as time goes by
        place = int(random.geometric(0.15)) + e // 200
        item = items[(place * tastes + taste) % len(items)].item_id
        time = DAY_MS * (1000 + e // 20)
        past_items, past_times = histories[user]
        sequences.append(
            UserSequence(
                f"{e:032x}",
                user,
                time,
                len(past_items) + 1,
                past_items[-HISTORY_LENGTH:],
                past_times[-HISTORY_LENGTH:],
                item,
            )
        )
        past_items.append(item)
        past_times.append(time)
    return sequences
