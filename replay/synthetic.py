"""A click log that is made up: for a first run anywhere, and for tests, without anybody's data.

It has what makes real logs hard and learnable: a long tail of items and of users, interests that
follow topics and drift from some topics to others, sessions that stay with one topic, items that
sell best when they are new or promoted, seasons, and users and items that arrive over time. Topics
show in titles and categories, so content helps with new items. The same configuration gives the
same files, byte for byte.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import csv

from replay.errors import ReplayError

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

START = 1_356_998_400
"""2013-01-01 in Unix seconds."""
DAY = 86_400
PROMOTION_DAYS = 5.0
NOVELTY_DAYS = 30.0
SECOND_THOUGHTS = 4
"""How often a user who would take the same item again looks for another one."""

TOPICS = {
    "Tea & Coffee": ("Green Tea", "Espresso Beans", "Teapot", "Coffee Grinder"),
    "Camping": ("Tent", "Sleeping Bag", "Camp Stove", "Headlamp"),
    "Cycling": ("Bicycle Pump", "Cycling Gloves", "Saddle Bag", "Chain Oil"),
    "Gardening": ("Pruning Shears", "Tomato Seeds", "Watering Can", "Potting Soil"),
    "Baking": ("Cake Tin", "Rolling Pin", "Bread Flour", "Piping Nozzles"),
    "Music": ("Guitar Strings", "Drum Sticks", "Music Stand", "Violin Rosin"),
    "Painting": ("Watercolours", "Sketch Book", "Oil Brushes", "Easel"),
    "Photography": ("Camera Strap", "Tripod", "Lens Filter", "Photo Album"),
    "Board Games": ("Strategy Game", "Card Game", "Jigsaw Puzzle", "Chess Set"),
    "Skin Care": ("Face Cream", "Sun Lotion", "Hand Soap", "Lip Balm"),
    "Stationery": ("Fountain Pen", "Notebook", "Desk Calendar", "Sealing Wax"),
    "Pets": ("Dog Leash", "Cat Tree", "Bird Feeder", "Aquarium Filter"),
}
STYLES = (
    "Classic", "Compact", "Deluxe", "Everyday", "Handmade", "Light", "Natural", "Professional",
    "Rustic", "Soft", "Sturdy", "Travel", "Vintage", "Weatherproof",
)  # fmt: skip
SIZES = ("Small", "Medium", "Large", "Pack of 2", "Pack of 6", "Gift Box")
SYLLABLES = ("bra", "dor", "fen", "gil", "hal", "kem", "lor", "mir", "nas", "ost", "pel", "tav")


@dataclass(frozen=True)
class SyntheticConfig:
    """The size of the log.

    Attributes:
        users: users that click at least once.
        items: catalogue items; a few may never be clicked.
        events: clicks.
        days: what they spread over.
        seed: another seed, another log.
    """

    users: int = 3000
    items: int = 2000
    events: int = 60_000
    days: int = 730
    seed: int = 7

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be met."""
        topics = sum(map(len, TOPICS.values()))
        if self.users < 1 or self.days < 1 or self.items < topics or self.events < self.users:
            raise ReplayError(
                f"a synthetic log needs users and days >= 1, items >= {topics}, events >= users"
            )


class Shelf(NamedTuple):
    """The items: topic, lasting appeal, and when they were born and promoted (seconds)."""

    topic_N: Integers
    fame_N: Floats
    born_N: Floats
    promoted_N: Floats


def _stock(config: SyntheticConfig, rng: np.random.Generator) -> Shelf:
    """The catalogue; every topic has something to sell from the first day."""
    topics = sum(map(len, TOPICS.values()))
    shares = rng.dirichlet(np.full(topics, 3.0))
    topic_N = np.concatenate(
        [np.arange(topics), rng.choice(topics, config.items - topics, p=shares)]
    )
    born_N = rng.uniform(0, 0.95 * config.days * DAY, config.items)
    born_N[rng.random(config.items) < 0.6] = 0
    born_N[:topics] = 0
    promoted_N = born_N + rng.uniform(0, config.days * DAY, config.items)
    return Shelf(topic_N, rng.lognormal(0, 1.2, config.items), born_N, promoted_N)


def _visits(config: SyntheticConfig, rng: np.random.Generator) -> tuple[Integers, Floats, Floats]:
    """User (ascending), time in seconds from the start, and age of the user (0 to 1) per event.

    A user's events come in sessions: `session` below numbers them, and events of one session are
    minutes apart.
    """
    end = config.days * DAY
    arrival_U = rng.uniform(0, 0.9 * end, config.users)
    arrival_U[rng.random(config.users) < 0.3] = 0
    stay_U = np.minimum(rng.exponential(0.4 * end, config.users) + 7 * DAY, end - arrival_U)
    activity_U = rng.lognormal(0, 1.1, config.users)
    least = min(4, config.events // config.users)
    counts_U = least + rng.multinomial(
        config.events - least * config.users, activity_U / activity_U.sum()
    )
    user_E = np.repeat(np.arange(config.users), counts_U)
    opens_E = rng.random(config.events) < 0.35
    opens_E[np.cumsum(counts_U)[:-1]] = True
    opens_E[0] = True
    session_E = np.cumsum(opens_E) - 1
    sessions = int(session_E[-1]) + 1
    user_S = user_E[opens_E]
    age_S = rng.beta(0.8, 1.2, sessions)  # people are keener at first
    pause_E = rng.exponential(240, config.events) + 5
    pause_E[opens_E] = 0
    elapsed_E = np.cumsum(pause_E)
    elapsed_E -= elapsed_E[opens_E][session_E]
    time_E = (arrival_U[user_S] + age_S * stay_U[user_S])[session_E] + elapsed_E
    return user_E, np.minimum(time_E, end - 1), age_S[session_E]


def _topics_of_events(
    user_E: Integers, time_E: Floats, age_E: Floats, config: SyntheticConfig,
    rng: np.random.Generator,
) -> Integers:  # fmt: skip
    """What each event is about: the user's early or late interests, in season or not."""
    topics = sum(map(len, TOPICS.values()))
    early_UT, late_UT = (rng.dirichlet(np.full(topics, 0.06), config.users) for _ in range(2))
    season_T = rng.uniform(0, 2 * np.pi, topics)
    events = len(user_E)
    topic_E = np.empty(events, np.int64)
    for start in range(0, events, 16_384):
        part = slice(start, start + 16_384)
        age_B1 = age_E[part, None]
        taste_BT = (1 - age_B1) * early_UT[user_E[part]] + age_B1 * late_UT[user_E[part]]
        year_B1 = 2 * np.pi * time_E[part, None] / (365 * DAY)
        taste_BT = (taste_BT + 2e-4) * (1 + 0.6 * np.sin(year_B1 + season_T))
        topic_E[part] = _draw(taste_BT, rng)
    # A session mostly stays with the topic it opened with.
    follows_E = np.zeros(events, bool)
    follows_E[1:] = (user_E[1:] == user_E[:-1]) & (age_E[1:] == age_E[:-1])
    follows_E &= rng.random(events) < 0.8
    source_E = np.maximum.accumulate(np.where(follows_E, 0, np.arange(events)))
    return topic_E[source_E]


def _draw(weights_BN: Floats, rng: np.random.Generator) -> Integers:
    """One index per row, with probability proportional to its weight."""
    sums_BN = np.cumsum(weights_BN, axis=1)
    thrown_B1 = rng.random((len(sums_BN), 1)) * sums_BN[:, -1:]
    return np.minimum((sums_BN < thrown_B1).sum(axis=1), weights_BN.shape[1] - 1)


def _choose(topic_E: Integers, time_E: Floats, shelf: Shelf, rng: np.random.Generator) -> Integers:
    """What each event is on: an item of its topic that is on sale, popular, new or promoted."""
    item_E = np.zeros(len(topic_E), np.int64)
    for topic in np.unique(topic_E):
        events, items = np.flatnonzero(topic_E == topic), np.flatnonzero(shelf.topic_N == topic)
        for part in np.array_split(events, len(events) * len(items) // 4_000_000 + 1):
            age_BN = (time_E[part, None] - shelf.born_N[items]) / DAY
            since_BN = (time_E[part, None] - shelf.promoted_N[items]) / DAY
            novelty_BN = 1 + 4 * np.exp(-np.maximum(age_BN, 0) / NOVELTY_DAYS)
            promotion_BN = 1 + 8 * ((since_BN >= 0) & (since_BN < PROMOTION_DAYS))
            weight_BN = shelf.fame_N[items] * novelty_BN * promotion_BN
            item_E[part] = items[_draw(np.where(age_BN >= 0, weight_BN, 0.0), rng)]
    return item_E


def _repeated(user_E: Integers, item_E: Integers, time_E: Floats) -> npt.NDArray[np.bool_]:
    """Whether the user has had the item before."""
    order = np.lexsort((time_E, item_E, user_E))
    again = np.zeros(len(order), bool)
    again[1:] = (np.diff(user_E[order]) == 0) & (np.diff(item_E[order]) == 0)
    again_E = np.empty_like(again)
    again_E[order] = again
    return again_E


def _titles(topic_N: Integers, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """Title and category of every item."""
    nouns = [(noun, category) for category, nouns in TOPICS.items() for noun in nouns]
    brands = [f"{a}{b}".capitalize() for a in SYLLABLES for b in SYLLABLES if a != b]
    titles, categories = [], []
    for topic in topic_N:
        noun, category = nouns[topic]
        brand = brands[(int(topic) * 7 + int(rng.integers(8))) % len(brands)]
        style, size = STYLES[rng.integers(len(STYLES))], SIZES[rng.integers(len(SIZES))]
        titles.append(f"{brand} {style} {noun}, {size}")
        categories.append(category)
    return titles, categories


def make(config: SyntheticConfig) -> tuple[pa.Table, pa.Table]:
    """The events (user_id, item_id, time in seconds; by time) and the items (item_id, ...)."""
    rng = np.random.default_rng(config.seed)
    shelf = _stock(config, rng)
    user_E, time_E, age_E = _visits(config, rng)
    topic_E = _topics_of_events(user_E, time_E, age_E, config, rng)
    item_E = _choose(topic_E, time_E, shelf, rng)
    for _ in range(SECOND_THOUGHTS):
        again_E = _repeated(user_E, item_E, time_E)
        item_E[again_E] = _choose(topic_E[again_E], time_E[again_E], shelf, rng)
    titles, categories = _titles(shelf.topic_N, rng)
    user_id = rng.permutation(config.users)[user_E] + 1
    item_id_N = rng.permutation(config.items) + 1
    seconds_E = START + time_E.astype(np.int64)
    order = np.lexsort((item_id_N[item_E], user_id, seconds_E))
    table = np.stack([user_id, item_id_N[item_E], seconds_E], axis=1)[order]
    # The same user on the same item in the same second would be one event twice.
    while (again := (table[1:] == table[:-1]).all(axis=1)).any():
        table[1:][again, 2] += 1
        table = table[np.lexsort((table[:, 1], table[:, 0], table[:, 2]))]
    events = pa.table(dict(zip(("user_id", "item_id", "time"), table.T, strict=True)))
    by_id = np.argsort(item_id_N)
    items = pa.table(
        {
            "item_id": item_id_N[by_id],
            "title": [titles[i] for i in by_id],
            "category": [categories[i] for i in by_id],
        }
    )
    return events, items


def write(config: SyntheticConfig, directory: Path) -> tuple[Path, Path]:
    """Write `events.csv` and `items.csv` unless they are there for this configuration.

    Returns:
        The paths of both.

    Raises:
        ReplayError: if the directory cannot be written.
    """
    events, items, made_of = (directory / n for n in ("events.csv", "items.csv", "config.json"))
    description = json.dumps(asdict(config))
    if made_of.is_file() and made_of.read_text(encoding="utf-8") == description:
        return events, items
    partial = directory.with_name(f".partial-{directory.name}-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        for table, path in zip(make(config), (events, items), strict=True):
            csv.write_csv(table, partial / path.name)
        (partial / made_of.name).write_text(description, encoding="utf-8")
        shutil.rmtree(directory, ignore_errors=True)
        partial.rename(directory)
    except OSError as error:
        raise ReplayError(f"{directory}: {error.strerror}; make it writable") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return events, items
