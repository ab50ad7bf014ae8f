"""A small log with taste: users have favourite categories, items come in bursts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from model.evaluation.protocol import SECONDS_PER_DAY, EventLog, canonical_order, split
from streaming.items import Item

FIRST_DAY = 15_000


def make_items(count: int = 120, categories: int = 6, titles: bool = True) -> list[Item]:
    """Items 3, 6, 9, ...; category by number, its name in the title."""
    return [
        Item(3 * n, f"thing {n % categories} number {n}" if titles else "", str(n % categories))
        for n in range(1, count + 1)
    ]


def make_log(events: int = 500, users: int = 60, days: int = 40, seed: int = 0) -> EventLog:
    """Events of `make_items()`; some items are never taken, several events share a user's day."""
    random = np.random.default_rng(seed)
    users_E = random.integers(1, users + 1, events)
    days_E = np.sort(random.integers(0, days, events))
    fashion_E = days_E // 5 * 7 + random.geometric(0.3, events)
    favourite_E = users_E % 6 + 6 * random.integers(0, 15, events)
    slots_E = np.where(random.random(events) < 0.5, fashion_E % 100, favourite_E % 100)
    seconds_E = (FIRST_DAY + days_E) * SECONDS_PER_DAY
    return split(canonical_order(users_E, 3 * (slots_E + 1), seconds_E))


def write_files(folder: Path, log: EventLog, items: list[Item]) -> tuple[Path, Path]:
    """The log and the catalogue as the CSV files that the protocol reads."""
    events = zip(log.events.users_E, log.events.items_E, log.events.times_E // 1000, strict=True)
    (folder / "events.csv").write_text(
        "user_id,item_id,time\n" + "".join(f"{u},{i},{t}\n" for u, i, t in events)
    )
    (folder / "items.csv").write_text(
        "item_id,asin,title,category\n"
        + "".join(f"{i.item_id},A{i.item_id},{i.title},{i.category}\n" for i in items)
    )
    return folder / "events.csv", folder / "items.csv"
