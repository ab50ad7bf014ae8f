"""The items that were announced, and which of them are not yet served as announced."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

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
        self._heard: dict[int, tuple[int, int]] = {}  # since the last version was published
        self.catalogue_items = 0
        self.refused = store.count_refused_items()

    def recount(self, serving: Serving | None) -> None:
        """Go through all items for those that wait."""
        listed = list(self._store.all_listed())
        self.catalogue_items = len(listed)
        self._heard = {one.item.item_id: (one.partition, one.offset) for one in listed}
        self.settle(serving)

    def settle(self, serving: Serving | None) -> None:
        """Another version is served: what was listed while it was built may wait."""
        self.waiting = self._not_served(self._heard, serving)
        self._heard = {one: self._heard[one] for one in self.waiting}

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
        heard = {one.item_id: (partition, offset) for one, partition, offset in listed}
        heard = {item_id: heard[item_id] for item_id in (*new, *changed)}
        self._heard |= heard
        self.waiting |= self._not_served(heard, serving)

    def of(self, item_ids: Collection[int]) -> list[ListedItem]:
        """The records of some items, ascending by id."""
        found = map(self._store.listed, sorted(item_ids))
        return [one for one in found if one is not None]

    @staticmethod
    def _not_served(heard: Mapping[int, tuple[int, int]], serving: Serving | None) -> set[int]:
        """Of items and where they were announced those that are not served as announced there."""
        if serving is None or not heard:
            return set(heard)
        ids = np.fromiter(heard, np.int64, len(heard))
        codes, _ = serving.served.lists.locate(ids)
        covered = serving.covered
        late = {i for i, (part, offset) in heard.items() if offset >= covered.get(part, 0)}
        return late | set(ids[codes < 0].tolist())
