"""What the indexer's store holds of an item, and how records of `items` change it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import orjson

from streaming.ids import own_text
from streaming.item_attributes import MOST_NAMES, Kind, kind_of
from streaming.items import Item


@dataclass(frozen=True)
class KnownItem:
    """What the store holds of an item: as `ListedItem`, and where the last record stands.

    `listed` is False where it is withdrawn; then `item` is what is kept of it, if anything, and
    `first_seen` when it was withdrawn.
    """

    item: Item | None
    first_seen: int
    at: tuple[int, int]
    said: tuple[int, int]
    listed: bool = True

    def value(self) -> bytes:
        """As it is stored."""
        record: dict[str, Any] = {"first_seen": self.first_seen, "at": self.at}
        if self.item is not None:
            record["item"] = self.item.record()
        if self.said != self.at:
            record["said"] = self.said
        return orjson.dumps(record)

    @classmethod
    def of(cls, value: bytes, listed: bool = True) -> KnownItem:
        """From what is stored, also by an older version of this program."""
        record = orjson.loads(value)
        if isinstance(record, list):  # a tombstone as older versions of this program noted it
            record = {"at": record}
        at = tuple(record["at"])
        item = Item(**record["item"]) if "item" in record else None
        return cls(item, record.get("first_seen", 0), at, tuple(record.get("said", at)), listed)


def text_of(item_id: int, was: Item | None, said: str) -> str:
    """The shop's text of an item that is said to have `said` now: a number leaves it as it was."""
    return said or (own_text(item_id, was.external_id) if was is not None else "")


class TypeCounts(dict[str, tuple[Kind, int]]):
    """For each attribute its type, and how many items have it."""

    def clash(self, item: Item, before: Item | None) -> str:
        """Why an item that takes the place of another cannot be held; empty if it can."""
        for name, value in item.attributes.items():
            kind, count = self.get(name, (kind_of(value), 0))
            if kind_of(value) != kind and count > (
                before is not None and name in before.attributes
            ):
                return f"attributes.{name} is a {kind_of(value)}, and a {kind} at {count} items"
        more = item.attributes.keys() - self.keys()
        if more and len(self) + len(more) > MOST_NAMES:
            return f"attributes.{min(more)}: the items have {len(self)} attributes already"
        return ""

    def replace(self, before: Item | None, after: Item | None) -> None:
        """An item takes the place of another."""
        for one, step in ((before, -1), (after, 1)):
            for name, value in (one.attributes if one is not None else {}).items():
                count = self.get(name, ("string", 0))[1] + step
                self[name] = (kind_of(value), count)
                if not count:
                    del self[name]


@dataclass(frozen=True)
class Change:
    """What some records of `items` changed: ids of items, each in one of the first four.

    Attributes:
        new: listed now, and not before.
        changed: they look otherwise than before.
        restated: they look as before, and something else of them changed.
        withdrawn: not to be answered any more.
        listed_before: how many of those were listed.
        hidden: those that are listed and hidden.
    """

    new: list[int]
    changed: list[int]
    restated: list[int]
    withdrawn: set[int]
    listed_before: int
    hidden: set[int]

    @classmethod
    def between(
        cls, before: Mapping[int, KnownItem | None], after: Mapping[int, KnownItem]
    ) -> Change:
        """What changed of some items from what was known before, perhaps nothing."""
        known = {i for i, one in before.items() if one is not None and one.listed}
        there = {i: one for i, one in after.items() if one.listed}
        gone = after.keys() - there.keys()
        again = {i for i, one in there.items() if i in known}
        same = {i for i in again if after[i].at == cast(KnownItem, before[i]).at}
        return cls(
            sorted(there.keys() - known),
            sorted(again - same),
            sorted(same),
            set(gone),
            len(gone & known),
            {i for i, one in there.items() if cast(Item, one.item).state == "hidden"},
        )
