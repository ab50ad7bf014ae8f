"""The items that were announced, and which of them are not yet served as announced."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import structlog

from indexer.serving import Serving
from indexer.store import ListedItem, Store
from streaming.events import EventError, Item

log = structlog.get_logger(__name__)


class Listing:
    """Follows `items` into the store.

    Attributes:
        waiting: ids of the items that are listed but not served as listed.
        catalogue_items: how many items were announced so far.
        refused: how many records were no items.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.waiting: set[int] = set()
        self.catalogue_items = 0
        self.refused = store.count_refused_items()

    def recount(self, serving: Serving | None) -> None:
        """Go through all items for those that wait."""
        listed = list(self._store.all_listed())
        self.catalogue_items = len(listed)
        self.waiting = _not_served(listed, serving)

    def listen(
        self,
        records: Sequence[tuple[int, int, bytes | None]],
        position: dict[int, int],
        serving: Serving | None,
    ) -> None:
        """Take records of `items` (partition, offset, value) and the position after them.

        A record that is no item is refused with its reason on record, and the rest goes on.
        """
        listed: list[tuple[Item, int, int]] = []
        refused: dict[str, str] = {}
        for partition, offset, value in records:
            try:
                item = Item.from_bytes(value or b"")
                if not 0 <= item.item_id < 2**63:
                    raise EventError(f"item_id {item.item_id} is not within 0..2^63-1")
            except EventError as error:
                refused[f"{partition}/{offset}"] = str(error)
                log.error("no item", partition=partition, offset=offset, reason=str(error))
            else:
                listed.append((item, partition, offset))
        new, changed = self._store.add_listed(listed, position, refused)
        self.refused += len(refused)
        self.catalogue_items += len(new)
        self.waiting |= _not_served(self.of([*new, *changed]), serving)

    def of(self, item_ids: Collection[int]) -> list[ListedItem]:
        """The records of some items, ascending by id."""
        found = map(self._store.listed, sorted(item_ids))
        return [one for one in found if one is not None]


def _not_served(listed: Sequence[ListedItem], serving: Serving | None) -> set[int]:
    if serving is None:
        return {one.item.item_id for one in listed}
    covered = serving.covered
    ids = np.array([one.item.item_id for one in listed], np.int64)
    codes, _ = serving.served.lists.locate(ids)
    missing = set(ids[codes < 0].tolist())
    return missing | {one.item.item_id for one in listed if one.after(covered)}
