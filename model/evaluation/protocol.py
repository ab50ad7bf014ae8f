"""The prequential protocol: what a model is asked, in which order, and what it may learn when.

Events are put in canonical order (time, then SHA-1 of `user|item|seconds`), never in the order
of the file: there, rows of one day stand in ascending item id, and a model could exploit that.
The first 60 % of the events, up to the end of the day in which they end, are the warm-up. Each
later day is first asked (one query per event of a user who has a history before that day), then
learnt. Candidates are all items of the catalogue but those in the user's history.

Shapes: E events, B queries of a day (distinct users), R rows (one per event that is a query).
"""

from __future__ import annotations

import csv
import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.histories import History
from streaming.bounds import DAY_MS
from streaming.items import Item

SECONDS_PER_DAY = 86_400
LIST_LENGTH = 50
"""Items in an answer."""
WARM_UP_SHARE = 0.6
REPLAY_BUDGET = 4
"""Older events that a model may learn again for each new one."""


class ProtocolError(ValueError):
    """A log, a model's answer or a prediction file breaks the protocol."""


@dataclass(frozen=True)
class Events:
    """Events as columns, in canonical order.

    Attributes:
        users_E: user ids, int64.
        items_E: item ids, int64.
        times_E: milliseconds since 1970-01-01, int64, never descending.
    """

    users_E: np.ndarray
    items_E: np.ndarray
    times_E: np.ndarray

    def __len__(self) -> int:
        return len(self.users_E)

    def __getitem__(self, part: slice | np.ndarray) -> Events:
        return Events(self.users_E[part], self.items_E[part], self.times_E[part])

    @property
    def days_E(self) -> np.ndarray:
        """Days since 1970-01-01, int64."""
        return self.times_E // DAY_MS


@dataclass(frozen=True)
class Queries:
    """What a model is asked on one day: one query for each distinct user.

    Attributes:
        day: days since 1970-01-01.
        users_B: user ids, int64.
        histories: for each user all events before the day, oldest first. A model that reads only
            the newest ones cuts them itself; all of them are excluded from the answer.
    """

    day: int
    users_B: np.ndarray
    histories: list[History]

    def __len__(self) -> int:
        return len(self.users_B)

    @property
    def now_ms(self) -> int:
        """The moment of asking: the first millisecond of the day."""
        return self.day * DAY_MS


@dataclass(frozen=True)
class Day:
    """One step of the protocol.

    Attributes:
        queries: to be answered before `events` are seen.
        query_R: index into the queries for each protocol row; a user with two events on the day
            is asked once and counts twice.
        targets_R: the item of each row's event.
        events: to be learnt afterwards.
    """

    queries: Queries
    query_R: np.ndarray
    targets_R: np.ndarray
    events: Events


@dataclass(frozen=True)
class EventLog:
    """A log with its split.

    Attributes:
        events: the events.
        warm_up_day: the last day of the warm-up. It is set by the whole log, and kept when the
            log is cut.
    """

    events: Events
    warm_up_day: int

    def until(self, last_day: int) -> EventLog:
        """The log without the events after `last_day` (days since 1970-01-01), split as before."""
        stop = int(np.searchsorted(self.events.days_E, last_day, side="right"))
        return EventLog(self.events[:stop], self.warm_up_day)

    def warm_up(self) -> Events:
        """The events a model may train on in any way before the first question."""
        return self.until(self.warm_up_day).events

    def tail_of_warm_up(self, share: float = 0.8) -> EventLog:
        """The protocol played inside the warm-up, for the choice of settings.

        `share` of the warm-up's events becomes the warm-up, and the rest is evaluated, so that
        nothing of the evaluation is looked at.
        """
        return split(self.warm_up(), share)

    def days(self) -> Iterator[Day]:
        """Every day after the warm-up that has an event, in order."""
        events, days_E = self.events, self.events.days_E
        start = int(np.searchsorted(days_E, self.warm_up_day, side="right"))
        past: defaultdict[int, History] = defaultdict(lambda: History([], []))
        _remember(past, events[:start])
        while start < len(events):
            day = int(days_E[start])
            stop = int(np.searchsorted(days_E, day, side="right"))
            today = events[start:stop]
            known_E = np.array([user in past for user in today.users_E.tolist()], dtype=bool)
            users_B, query_R = np.unique(today.users_E[known_E], return_inverse=True)
            histories = [History(*map(list, past[user])) for user in users_B.tolist()]
            yield Day(Queries(day, users_B, histories), query_R, today.items_E[known_E], today)
            _remember(past, today)
            start = stop


def _remember(past: defaultdict[int, History], events: Events) -> None:
    columns = (events.users_E.tolist(), events.items_E.tolist(), events.times_E.tolist())
    for user, item, time in zip(*columns, strict=True):
        past[user].items.append(item)
        past[user].times.append(time)


def split(events: Events, share: float = WARM_UP_SHARE) -> EventLog:
    """Split after the day in which the first `share` of the events ends.

    Raises:
        ProtocolError: there are no events.
    """
    if not len(events):
        raise ProtocolError("the event log is empty: there is nothing to evaluate")
    last = int(np.ceil(share * len(events))) - 1
    return EventLog(events, int(events.days_E[last]))


def canonical_order(users_E: np.ndarray, items_E: np.ndarray, seconds_E: np.ndarray) -> Events:
    """Sort events by time in seconds, ties by the SHA-1 of `user|item|seconds`.

    >>> order = canonical_order(np.array([1, 2]), np.array([7, 7]), np.array([86400, 0]))
    >>> order.users_E, order.times_E
    (array([2, 1]), array([       0, 86400000]))
    """
    rows = zip(users_E.tolist(), items_E.tolist(), seconds_E.tolist(), strict=True)
    keys = np.array(
        [hashlib.sha1(f"{u}|{i}|{t}".encode(), usedforsecurity=False).digest() for u, i, t in rows],
        dtype="V20",
    ).view(np.dtype(">u8, >u8, >u4"))
    order = np.lexsort((keys["f2"], keys["f1"], keys["f0"], seconds_E)) if len(users_E) else []
    return Events(users_E, items_E, seconds_E * 1000)[np.asarray(order, dtype=np.int64)]


def read_events(path: Path) -> Events:
    """Read a CSV or TSV with the columns user_id, item_id and time (integers, Unix seconds).

    Raises:
        ProtocolError: names the file, the line and the field.
    """
    columns: tuple[list[int], list[int], list[int]] = ([], [], [])
    for line, fields in _rows(path, ("user_id", "item_id", "time")):
        for column, (name, text) in zip(columns, fields.items(), strict=True):
            column.append(_integer(text, name, path, line))
    return canonical_order(*(np.array(column, dtype=np.int64) for column in columns))


def read_items(path: Path) -> list[Item]:
    """Read a catalogue with the columns item_id, category (or i_category), title, asin.

    The last two may be missing. An item without a category has category "0". Sorted by id.

    Raises:
        ProtocolError: names the file, the line and the field; also where an id stands twice.
    """
    items: dict[int, Item] = {}
    for line, fields in _rows(path, ("item_id",)):
        item_id = _integer(fields["item_id"], "item_id", path, line)
        if item_id in items:
            raise ProtocolError(f"{path} line {line}: item_id {item_id} is listed a second time")
        category = fields.get("i_category", fields.get("category", "")).strip() or "0"
        title, asin = fields.get("title", "").strip(), fields.get("asin", "").strip()
        items[item_id] = Item(item_id, title, category, asin)
    return [items[item_id] for item_id in sorted(items)]


def with_unlisted(events: Events, items: list[Item]) -> list[Item]:
    """The catalogue with the clicked items that it does not hold, without title and category.

    So does the pipeline, for which a click on an unknown item lists it.

    >>> events = Events(np.array([1, 1]), np.array([7, 9]), np.array([0, 0]))
    >>> [(i.item_id, i.category) for i in with_unlisted(events, [Item(9, "soap", "4")])]
    [(7, '0'), (9, '4')]
    """
    listed = {item.item_id for item in items}
    unlisted = [Item(i, "", "0") for i in np.unique(events.items_E).tolist() if i not in listed]
    return sorted([*items, *unlisted], key=lambda item: item.item_id)


def check_log(log: EventLog, items: list[Item]) -> None:
    """Refuse a log that the catalogue cannot serve.

    Raises:
        ProtocolError: an event's item is not listed, or there are too few items for an answer.
    """
    listed = np.array([item.item_id for item in items], dtype=np.int64)
    unknown = log.events.items_E[~np.isin(log.events.items_E, listed)]
    if len(unknown):
        raise ProtocolError(
            f"item_id {unknown[0]} has events but is not in the catalogue "
            f"({len(np.unique(unknown))} such items): add it to the items file"
        )
    longest = int(np.unique(log.events.users_E, return_counts=True)[1].max(initial=0))
    if len(items) < LIST_LENGTH + longest:
        raise ProtocolError(
            f"the catalogue has {len(items)} items, but an answer of {LIST_LENGTH} items beside a "
            f"history of {longest} events needs {LIST_LENGTH + longest}"
        )


def _rows(path: Path, required: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and fields by name (the required ones first) of each row of a CSV or TSV."""
    with path.open(encoding="utf-8", newline="") as file:
        header = file.readline()
        separator = "\t" if "\t" in header else ","
        names = next(csv.reader([header.lstrip("\ufeff")], delimiter=separator), [])
        missing = [name for name in required if name not in names]
        if missing:
            raise ProtocolError(f"{path} line 1: no column {missing[0]!r}; it has {names}")
        order = [*required, *(name for name in names if name not in required)]
        reader = csv.reader(file, delimiter=separator)
        for row in reader:
            if not row:
                continue
            line = reader.line_num + 1
            if len(row) != len(names):
                raise ProtocolError(
                    f"{path} line {line}: {len(row)} fields, but the header has {len(names)}"
                )
            fields = dict(zip(names, row, strict=True))
            yield line, {name: fields[name] for name in order}


def _integer(text: str, name: str, path: Path, line: int) -> int:
    try:
        return int(text)
    except ValueError:
        raise ProtocolError(
            f"{path} line {line}: {name} {text[:80]!r} is not an integer, as the protocol's files "
            "have it; number the ids first"
        ) from None
