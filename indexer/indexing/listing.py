"""The items that were announced, and which of them are not yet served as announced."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import structlog

from indexer.building.placing import ListedItem
from indexer.indexing.item_store import ItemStore
from indexer.indexing.known_item import Change
from indexer.indexing.served_version import ServedVersion
from streaming.bounds import EventError
from streaming.items import Item, Withdrawal, announcement

log = structlog.get_logger(__name__)


class Announced(NamedTuple):
    """A record of `items` as read; `timestamp` is the record's own, in ms."""

    partition: int
    offset: int
    value: bytes | None
    key: bytes | None = None
    timestamp: int = -1
    headers: tuple[tuple[str, bytes | None], ...] = ()


KeepAside = Callable[[Sequence[tuple[Announced, str]]], None]
"""Takes records that are no items, each with the reason, before the store knows of them."""


class Listing:
    """Follows `items` into the store.

    Args:
        store: what is known.
        keep_aside: is given what is refused.

    Attributes:
        waiting: ids of the items that are listed but not served as listed; none before the first
            version.
        withdrawn: ids of the items that must not be answered.
        withdrawals: how often that changed.
        hidden: ids of those that are listed and not answered.
        untold: ids of the items of which something changed that no reader was told.
        catalogue_items: how many items are listed.
        refused: how many records were no items.
    """

    def __init__(self, store: ItemStore, keep_aside: KeepAside = lambda _: None) -> None:
        self._store = store
        self._keep_aside = keep_aside
        self.waiting: set[int] = set()
        self.withdrawn: set[int] = set(store.withdrawn())
        self.withdrawals = 0
        self.hidden: set[int] = set(store.hidden())
        self.untold: set[int] = set()
        self.catalogue_items = 0
        self._refuse_what_is_stored()
        self.refused = store.count_refused_items()

    def recount(self, served: ServedVersion | None) -> None:
        """Count what is listed, and look for those that wait."""
        self.catalogue_items = self._store.count_listed()
        self.settle(served)

    def settle(self, served: ServedVersion | None) -> None:
        """Another version is served: what was listed while it was built waits."""
        self.waiting = set()
        if served is not None:
            since = self.of(self._store.said_since(served.covered).tolist())
            self.waiting = {one.item.item_id for one in since if one.after(served.covered)}

    def listen(
        self,
        records: Sequence[Announced],
        position: dict[int, int],
        served: ServedVersion | None,
    ) -> None:
        """Take records of `items` and the position after them.

        A record that is no item is refused with its reason on record, and the rest goes on.
        """
        said: list[tuple[Item | Withdrawal, int, int, int]] = []
        refused: list[tuple[Announced, str]] = []
        for record in records:
            try:
                one = announcement(record.key, record.value)
            except EventError as error:
                refused.append((record, str(error)))
            else:
                said.append((one, record.partition, record.offset, max(0, record.timestamp)))
        self._refuse(refused)
        self.refused += len(refused)
        at = {(record.partition, record.offset): record for record in records}

        def refuse(clashes: Mapping[tuple[int, int], str]) -> None:
            self._refuse([(at[place], reason) for place, reason in clashes.items()])
            self.refused += len(clashes)

        change = self._store.announce(said, position, _reasons(refused), refuse)
        self._take_in(change, said, served)

    def _take_in(
        self,
        change: Change,
        said: Sequence[tuple[Item | Withdrawal, int, int, int]],
        served: ServedVersion | None,
    ) -> None:
        self.catalogue_items += len(change.new) - change.listed_before
        at = {one.item_id: (partition, offset) for one, partition, offset, _ in said}
        heard = {item_id: at[item_id] for item_id in (*change.new, *change.changed)}
        if served is not None:  # else they are in the first version
            self.waiting |= self._not_served(heard, served)
        self.withdrawals += bool(change.withdrawn or not self.withdrawn.isdisjoint(heard))
        self.withdrawn -= heard.keys()
        self.waiting -= change.withdrawn
        self.withdrawn |= change.withdrawn
        there = heard.keys() | set(change.restated)
        self.hidden.difference_update(there, change.withdrawn)
        self.hidden |= change.hidden
        self.untold |= there | change.withdrawn

    def of(self, item_ids: Collection[int]) -> list[ListedItem]:
        """The records of some items, ascending by id."""
        found = map(self._store.listed, sorted(item_ids))
        return [one for one in found if one is not None]

    def _refuse(self, refused: Sequence[tuple[Announced, str]]) -> None:
        for record, reason in refused:
            place = {"partition": record.partition, "offset": record.offset}
            log.error("no item", reason=reason, **place)
        if refused:
            self._keep_aside(refused)

    def _refuse_what_is_stored(self) -> None:
        """Take out what a version before these bounds has stored, once for a store."""
        if self._store.is_within_bounds:
            return
        refused = []
        for one in self._store.all_listed():
            value = one.item.to_bytes()
            try:
                Item.from_bytes(value)
            except EventError as error:
                record = Announced(one.partition, one.offset, value, one.item.key())
                refused.append((record, str(error)))
        self._refuse(refused)
        ids = [int(record.key or b"") for record, _ in refused]
        self._store.take_out(ids, _reasons(refused))

    @staticmethod
    def _not_served(heard: Mapping[int, tuple[int, int]], served: ServedVersion) -> set[int]:
        """Of items and where they were announced those that are not served as announced there."""
        ids = np.fromiter(heard, np.int64, len(heard))
        codes, _ = served.snapshot.lists.locate(ids)
        covered = served.covered
        late = {i for i, (part, offset) in heard.items() if offset >= covered.get(part, 0)}
        return late | set(ids[codes < 0].tolist())


def _reasons(refused: Sequence[tuple[Announced, str]]) -> dict[str, str]:
    return {f"{record.partition}/{record.offset}": reason for record, reason in refused}
