"""A catalogue of any size and a click log that belongs to it: seeded, and made in seconds.

    python -m tests.benchmarks.made_catalogue --items 1000000 --events 30000 --out DIRECTORY

writes `events.csv` and `items.csv`, which `sparc up --events F --items F` takes. Unlike the log of
`replay.synthetic` it has what a large catalogue has: hundreds of topics, each of a few shelves with
words of their own; a long tail of items within every shelf; items that are born while the log runs,
as many in a large catalogue as in a small one; and items that are had one after the other. A user
has a few topics and favourite shelves, and a session mostly stays with one of them, so histories
say what comes next and popularity does not.

Shapes: N items, T words of a title, G shelves of all topics, E events, U users.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv

from streaming.events import HISTORY_LENGTH, UserSequence
from streaming.items import Item

Integers = NDArray[np.int64]

START_MS = 1_600_000_000_000
DAY_MS = 86_400_000
CATEGORIES = 400
SHELVES = 8
"""Parts of a topic, with words of their own."""
TOPIC_WORDS, SHELF_WORDS, COMMON_WORDS = 16, 3, 3000
WORDS = 3, 10
"""Fewest and most words of a title."""
TAIL = 1.3
"""The k-th best item of a shelf is clicked as often as k ** -TAIL says."""
TOPIC_TAIL = 0.7
"""The same of topics: the k-th is a user's as often as k ** -TOPIC_TAIL says."""
TOPICS_OF_A_USER = (0.6, 0.3, 0.1)
STAYS = 0.85
"""Of the events of a session that follow another one: how many are of the same topic."""
FAVOURITE = 0.75
"""How many events are on the user's favourite shelf of the topic."""
COMPANION = 0.35
"""How many of those that stay on a shelf are on an item that is had after the one before."""
NOVELTY = 0.1
"""How many events are on one of the shelf's newest items."""
SPARE = 2.0
"""So many more events are drawn than wanted: nobody has an item twice."""
SYLLABLES = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]


@dataclass(frozen=True)
class CatalogueSize:
    """How much is made.

    Attributes:
        items: catalogue items.
        events: clicks.
        users: who clicks.
        topics: what items are about; fewer where there are less than 200 items for each.
        births: how many of the items are born while the log runs.
        days: what the log spreads over.
        seed: another seed, another catalogue and log.
    """

    items: int = 100_000
    events: int = 30_000
    users: int = 2000
    topics: int = 300
    births: int = 2000
    days: int = 30
    seed: int = 0


@dataclass(frozen=True)
class MadeCatalogue:
    """Items by id, and clicks by time.

    Attributes:
        item_ids_N: ascending, from 1.
        titles_N, categories_N: what they say.
        born_N: when an item was born, in ms; `START_MS` for those that were there before the log.
        users_E, items_E, times_E: the clicks: user, item id, ms; times ascend and differ.
    """

    item_ids_N: Integers
    titles_N: pa.StringArray
    categories_N: pa.StringArray
    born_N: Integers
    users_E: Integers
    items_E: Integers
    times_E: Integers

    def items(self, born_from_ms: int = 0, born_before_ms: int = 2**62) -> Iterator[Item]:
        """The items born within a time, by birth."""
        rows = np.flatnonzero((self.born_N >= born_from_ms) & (self.born_N < born_before_ms))
        rows = rows[np.argsort(self.born_N[rows], kind="stable")]
        for a in range(0, len(rows), 65_536):
            some = rows[a : a + 65_536]
            yield from map(
                Item,
                self.item_ids_N[some].tolist(),
                self.titles_N.take(some).to_pylist(),
                self.categories_N.take(some).to_pylist(),
                [""] * len(some),
                self.born_N[some].tolist(),
            )

    def sequences(self, first: int = 0) -> Iterator[UserSequence]:
        """The clicks by time, from one on, each with its user's history."""
        past: defaultdict[int, tuple[list[int], list[int]]]
        past = defaultdict(lambda: ([], []))
        clicks = (self.users_E.tolist(), self.items_E.tolist(), self.times_E.tolist())
        for e, (user, item, time_ms) in enumerate(zip(*clicks, strict=True)):
            items, times = past[user]
            last = slice(-HISTORY_LENGTH, None)
            if e >= first:
                yield UserSequence(
                    f"{e:032x}", user, time_ms, len(items) + 1, items[last], times[last], item
                )
            items.append(item)
            times.append(time_ms)

    def write(self, directory: Path) -> tuple[Path, Path]:
        """Write `events.csv` and `items.csv`; returns their paths."""
        directory.mkdir(parents=True, exist_ok=True)
        events, items = directory / "events.csv", directory / "items.csv"
        columns = {"user_id": self.users_E, "item_id": self.items_E, "time": self.times_E}
        csv.write_csv(pa.table(columns), events)
        columns = {"item_id": self.item_ids_N, "title": self.titles_N}
        csv.write_csv(pa.table(columns | {"category": self.categories_N}), items)
        return events, items


@dataclass(frozen=True)
class _Shelves:
    """Items in the order of their shelves, and on a shelf by birth; positions count in it.

    Attributes:
        item_ids_N, born_N: of each position.
        weights_N: cumulated weights of the positions, with a 0 before them: (N + 1,).
        begins_G, ends_G: positions of each shelf.
    """

    item_ids_N: Integers
    born_N: Integers
    weights_N: NDArray[np.float64]
    begins_G: Integers
    ends_G: Integers


def make(size: CatalogueSize) -> MadeCatalogue:
    """The catalogue and the log of a size."""
    rng = np.random.default_rng(size.seed)
    size = replace(size, topics=max(1, min(size.topics, size.items // 200)))
    groups = size.topics * SHELVES
    share_G = np.repeat(rng.dirichlet(np.full(size.topics, 4.0)), SHELVES)
    share_G *= rng.uniform(0.5, 1.5, groups)
    group_N = np.arange(size.items) % groups  # no shelf is empty
    group_N[groups:] = rng.choice(groups, max(0, size.items - groups), p=share_G / share_G.sum())
    group_N = rng.permutation(group_N)
    born_N = np.full(size.items, START_MS)
    young = rng.choice(size.items, min(size.births, size.items // 2), replace=False)
    born_N[young] += rng.integers(1, size.days * DAY_MS, len(young))
    shelves = _shelves(group_N, born_N, groups, rng)
    users_E, items_E, times_E = _clicks(size, shelves, rng)
    titles_N = _titles(group_N, size.topics, rng)
    categories = pa.array([f"category {number}" for number in range(CATEGORIES)])
    # A category has shelves of several topics: it says less than a title does.
    category_N = rng.integers(0, CATEGORIES, groups)[group_N]
    ids_N = np.arange(1, size.items + 1)
    return MadeCatalogue(
        ids_N, titles_N, categories.take(pa.array(category_N)), born_N, users_E, items_E, times_E
    )


def _shelves(
    group_N: Integers, born_N: Integers, groups: int, rng: np.random.Generator
) -> _Shelves:
    order_N = np.lexsort((born_N, group_N))
    sizes_G = np.bincount(group_N, minlength=groups)
    ends_G = np.cumsum(sizes_G)
    # Ranks within each shelf, in an order that has nothing to do with that of births.
    by_chance = np.lexsort((rng.random(len(group_N)), group_N))
    rank_N = np.arange(len(group_N)) - np.repeat(ends_G - sizes_G, sizes_G) + 1
    weight_N = np.empty(len(group_N))
    weight_N[by_chance] = rank_N**-TAIL
    weights_N = np.append(0.0, np.cumsum(weight_N[order_N]))
    return _Shelves(order_N + 1, born_N[order_N], weights_N, ends_G - sizes_G, ends_G)


def _clicks(
    size: CatalogueSize, shelves: _Shelves, rng: np.random.Generator
) -> tuple[Integers, Integers, Integers]:
    """User, item id and time of each event, by time."""
    activity_U = rng.lognormal(0, 1.0, size.users)
    drawn = int(size.events * SPARE)
    counts_U = 1 + rng.multinomial(drawn, activity_U / activity_U.sum())
    users_E = np.repeat(np.arange(size.users), counts_U)
    opens_E = rng.random(len(users_E)) < 0.2
    opens_E[np.cumsum(counts_U) - counts_U] = True
    session_E = np.cumsum(opens_E) - 1
    times_E = _times(users_E, opens_E, session_E, size, rng)
    positions_E = _positions(users_E, opens_E, times_E, size, shelves, rng)
    pairs_E = users_E * size.items + positions_E
    once = np.unique(pairs_E, return_index=True)[1]  # of what a user has twice the first
    kept = np.sort(rng.permutation(once)[: size.events])
    kept = kept[np.argsort(times_E[kept], kind="stable")]
    times_E = times_E[kept] + np.arange(len(kept))  # no two at one time
    return users_E[kept] + 1, shelves.item_ids_N[positions_E[kept]], times_E


def _times(
    users_E: Integers, opens_E: NDArray[np.bool_], session_E: Integers, size: CatalogueSize,
    rng: np.random.Generator,
) -> Integers:  # fmt: skip
    """Sessions of a user one after the other, some minutes between their events."""
    begins_S = rng.integers(0, size.days * DAY_MS, int(session_E[-1]) + 1)
    begins_S = begins_S[np.lexsort((begins_S, users_E[opens_E]))]
    pause_E = rng.exponential(120_000, len(users_E)).astype(np.int64) + 5000
    pause_E[opens_E] = 0
    elapsed_E = np.cumsum(pause_E)
    elapsed_E -= elapsed_E[opens_E][session_E]
    return START_MS + begins_S[session_E] + elapsed_E


def _positions(
    users_E: Integers, opens_E: NDArray[np.bool_], times_E: Integers, size: CatalogueSize,
    shelves: _Shelves, rng: np.random.Generator,
) -> Integers:  # fmt: skip
    """What each event is on, as a position: of the user's topics and shelves, and there by then."""
    events, count = len(users_E), len(TOPICS_OF_A_USER)
    share_K = np.arange(1, size.topics + 1) ** -TOPIC_TAIL
    share_K /= share_K.sum()
    topics_UT = rng.choice(size.topics, (size.users, count), p=share_K)
    favourites_UT = rng.integers(0, SHELVES, (size.users, count))
    choice_E = _carried(rng.choice(count, events, p=TOPICS_OF_A_USER), opens_E, STAYS, rng)
    shelf_E = rng.integers(0, SHELVES, events)
    at_favourite_E = rng.random(events) < FAVOURITE
    shelf_E[at_favourite_E] = favourites_UT[users_E, choice_E][at_favourite_E]
    group_E = topics_UT[users_E, choice_E] * SHELVES + shelf_E
    begins_E, ends_E = shelves.begins_G[group_E], shelves.ends_G[group_E]

    low_E, high_E = shelves.weights_N[begins_E], shelves.weights_N[ends_E]
    thrown_E = low_E + rng.random(events) * (high_E - low_E)
    positions_E = np.searchsorted(shelves.weights_N, thrown_E, side="right") - 1
    positions_E = np.clip(positions_E, begins_E, ends_E - 1)
    there_E = _born_before(group_E, times_E, shelves)  # of a shelf, the first by birth
    newest_E = np.maximum(begins_E, begins_E + there_E - 1 - rng.integers(0, 4, events))
    positions_E = np.where(rng.random(events) < NOVELTY, newest_E, positions_E)
    follows_E = np.append(False, group_E[1:] == group_E[:-1]) & ~opens_E
    follows_E &= rng.random(events) < COMPANION
    # A row of companions goes on from where it began, a few positions at a time.
    origin_E = np.maximum.accumulate(np.where(follows_E, 0, np.arange(events)))
    steps_E = np.cumsum(np.where(follows_E, rng.integers(1, 3, events), 0))
    positions_E = positions_E[origin_E] + steps_E - steps_E[origin_E]
    return np.clip(positions_E, begins_E, begins_E + np.maximum(there_E, 1) - 1)


def _carried(
    values_E: Integers, opens_E: NDArray[np.bool_], share: float, rng: np.random.Generator
) -> Integers:
    """Within a session most values are those of the event before."""
    follows_E = ~opens_E & (rng.random(len(values_E)) < share)
    return values_E[np.maximum.accumulate(np.where(follows_E, 0, np.arange(len(values_E))))]


def _born_before(group_E: Integers, times_E: Integers, shelves: _Shelves) -> Integers:
    """How many items of its shelf were born when an event took place."""
    span = 2**42  # of all times from the start of the log, in ms
    groups_N = np.repeat(np.arange(len(shelves.ends_G)), shelves.ends_G - shelves.begins_G)
    keys_N = groups_N * span + shelves.born_N - START_MS
    found = np.searchsorted(keys_N, group_E * span + times_E - START_MS, side="right")
    return found - shelves.begins_G[group_E]


def _words(count: int) -> list[str]:
    """Words that look like some."""
    size = len(SYLLABLES)
    numbers = np.arange(count) * 7919 % size**3
    digits = (numbers % size, numbers // size % size, numbers // size**2)
    return ["".join(SYLLABLES[n] for n in some) for some in zip(*map(list, digits), strict=True)]


def _titles(group_N: Integers, topics: int, rng: np.random.Generator) -> pa.StringArray:
    """Words of the topic, of the shelf, and common ones, of which few are in most titles."""
    shelves_at = topics * TOPIC_WORDS
    common_at = shelves_at + topics * SHELVES * SHELF_WORDS
    words = pa.array(_words(common_at + COMMON_WORDS))
    items, most = len(group_N), WORDS[1]
    lengths_N = rng.integers(WORDS[0], most + 1, items, dtype=np.int32)
    starts_N = np.append(0, np.cumsum(lengths_N, dtype=np.int32))
    group_P = np.repeat(group_N.astype(np.int32), lengths_N)
    kind_P = rng.random(len(group_P), np.float32)
    word_P = (common_at + COMMON_WORDS * rng.random(len(group_P), np.float32) ** 3).astype(np.int32)
    word_P = np.minimum(word_P, common_at + COMMON_WORDS - 1)
    of_topic = group_P // SHELVES * TOPIC_WORDS + rng.integers(0, TOPIC_WORDS, len(group_P))
    word_P = np.where(kind_P < 0.6, of_topic, word_P)
    of_shelf = shelves_at + group_P * SHELF_WORDS + rng.integers(0, SHELF_WORDS, len(group_P))
    word_P = np.where(kind_P < 0.25, of_shelf, word_P)
    titles = pa.ListArray.from_arrays(pa.array(starts_N), words.take(pa.array(word_P)))
    return pc.binary_join(titles, " ")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for field in fields(CatalogueSize):
        name = "--" + field.name
        parser.add_argument(name, type=int, default=field.default)
    parser.add_argument("--out", type=Path, required=True)
    options = vars(parser.parse_args(arguments))
    out, began = options.pop("out"), time.perf_counter()
    events, items = make(CatalogueSize(**options)).write(out)
    print(f"{events} and {items} in {time.perf_counter() - began:.1f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
