"""What the indexer knows, on disk: items, and positions.

A rocksdict database in raw mode (bytes in, bytes out; nothing is pickled). Column families:

    items      item id -> JSON: the item, first_seen, the partition and offset of the record that
               listed it as it looks, and of the last one, where only properties changed since
    hidden     item id -> nothing: those of them that are hidden
    withdrawn  item id -> JSON: the partition and offset of what withdrew it, and what is kept of it
    places     partition and offset -> item id: what was said last, in order
    meta       offsets of `items`, the versions last used and served, what was refused, and the
               type of every attribute with the number of items that have it

Ids are 8 bytes, big-endian, so that keys sort as numbers, and so are places. The order of a commit:
what was read and the offset it came from go in one WriteBatch; the version that is served is noted
after the pointer was replaced. Codes, vectors and lists are in the versions on disk, and nowhere
else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import orjson
from numpy.typing import NDArray
from rocksdict import Options, Rdict, WriteBatch, WriteOptions

from indexer.building.placing import ListedItem
from indexer.errors import IndexerError
from indexer.indexing.known_item import (
    Change,
    KnownItem,
    TypeCounts,
    text_of,
)
from streaming.durable_files import make_folder
from streaming.ids import collision
from streaming.items import Item, Withdrawal

Ids = NDArray[np.int64]

FAMILIES = ("items", "hidden", "withdrawn", "places", "meta")
POSITION = "position/"
BOUNDS = 1
"""Of what is stored; another number when `streaming.bounds` refuses what it took before."""


def _id(item_id: int) -> bytes:
    return item_id.to_bytes(8, "big")


def _place(partition: int, offset: int) -> bytes:
    return partition.to_bytes(4, "big") + offset.to_bytes(8, "big")


class ItemStore:
    """The database in `directory`, owned by one process at a time.

    Attributes:
        types: of the attributes that items have.
    """

    def __init__(self, directory: Path) -> None:
        make_folder(directory)
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.create_missing_column_families(True)
        try:
            there = Rdict.list_cf(str(directory)) if (directory / "CURRENT").exists() else []
            former = set(there) - {"default", *FAMILIES}  # of older versions of this program
            self._db = Rdict(
                str(directory),
                options=options,
                column_families={name: Options(raw_mode=True) for name in {*FAMILIES, *former}},
            )
            for name in former:
                self._db.drop_column_family(name)
        except Exception as error:  # rocksdict raises plain Exception
            raise IndexerError(
                f"{directory}: cannot be opened ({error}); another indexer may be running on it. "
                "If it is damaged, delete it: it is filled again from Kafka and the handovers"
            ) from error
        self._families = {name: self._db.get_column_family(name) for name in FAMILIES}
        self._handles = {name: self._db.get_column_family_handle(name) for name in FAMILIES}
        self._durable = WriteOptions()
        self._durable.sync = True
        self.types = TypeCounts(
            {name: (kind, n) for name, (kind, n) in (self.meta("attributes") or {}).items()}
        )
        if not self.meta("places"):  # of what an older version stored no places are noted
            self.forget_places(self.position)
            self.set_meta({"places": 1})

    def close(self) -> None:
        """Release the database."""
        self._families.clear()
        self._handles.clear()
        self._db.close()

    def _pairs(self, family: str, first: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Keys, ascending, from a first one on, and their values."""
        return cast(Iterator[tuple[bytes, bytes]], self._families[family].items(from_key=first))

    def _scan(self, family: str, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Keys, ascending, and values of the keys that begin with `prefix`."""
        for key, value in self._pairs(family, prefix):
            if not key.startswith(prefix):
                return
            yield key, value

    def _put_meta(self, batch: WriteBatch, key: str, value: Any) -> None:
        batch.put(key.encode(), orjson.dumps(value), self._handles["meta"])

    def meta(self, key: str) -> Any:
        """A JSON value, None if it was never noted."""
        value = self._families["meta"].get(key.encode())
        return None if value is None else orjson.loads(value)

    def set_meta(self, values: Mapping[str, Any]) -> None:
        """Note JSON values durably, all of them or none."""
        batch = WriteBatch(raw_mode=True)
        for key, value in values.items():
            self._put_meta(batch, key, value)
        self._db.write(batch, self._durable)

    def count_meta(self, prefix: str) -> int:
        """How many values are noted whose key begins with `prefix`."""
        return sum(1 for _ in self._scan("meta", prefix.encode()))

    # What was read from `items`.

    @property
    def position(self) -> dict[int, int]:
        """Partition -> next offset of `items` to read."""
        found = {}
        for key, value in self._scan("meta", POSITION.encode()):
            found[int(key[len(POSITION) :])] = orjson.loads(value)
        return found

    def announce(
        self,
        said: Iterable[tuple[Item | Withdrawal, int, int, int]],
        position: Mapping[int, int],
        refused: Mapping[str, str] | None = None,
        refuse: Callable[[Mapping[tuple[int, int], str]], None] = lambda _: None,
    ) -> Change:
        """What records of `items` say, and the position after them, in one batch.

        An item announced again keeps its `first_seen`, and, where it looks the same, the place of
        the record that listed it so; one that was withdrawn meanwhile begins anew.

        Args:
            said: items listed or withdrawn, each with the partition, offset and time (ms) of its
                record.
            position: after them.
            refused: "partition/offset" of records that are no items, and the reason.
            refuse: is told where those stand, and why, that cannot be held, before anything is
                written: an attribute has another type than at other items, or the number of the
                item's text is another item's.
        """
        types = TypeCounts(self.types)
        latest: dict[int, KnownItem] = {}
        before: dict[int, KnownItem | None] = {}
        clashes: dict[tuple[int, int], str] = {}
        for one, partition, offset, time in said:
            item_id, place = one.item_id, (partition, offset)
            if item_id not in latest:
                before[item_id] = self._known(item_id)
            known = latest.get(item_id, before[item_id])
            item = one.item if isinstance(one, Withdrawal) else one
            was = known.item if known is not None else None
            why = collision(item_id, was.external_id if was is not None else "", one.external_id)
            why = why and f"item_id {why}"
            if not why and item is not None:
                item = replace(item, external_id=text_of(item_id, was, item.external_id))
                why = types.clash(item, was)
            if why:
                clashes[place] = why
                continue
            if isinstance(one, Withdrawal):
                found = KnownItem(item, time, place, place, listed=False)
            elif known is None or not known.listed or known.item is None:
                found = KnownItem(item, one.listed_at, place, place)
            elif known.item == item:
                continue
            else:
                first = min(known.first_seen, one.listed_at)
                same = known.item.looks_like(cast(Item, item)) and first == known.first_seen
                found = KnownItem(item, first, known.at if same else place, place)
            types.replace(was, item)
            latest[item_id] = found
        if clashes:
            refuse(clashes)
        batch = WriteBatch(raw_mode=True)
        for item_id, known in latest.items():
            self._put_known(batch, item_id, known)
        for partition, offset in position.items():
            self._put_meta(batch, f"{POSITION}{partition}", offset)
        clashed = {f"{partition}/{offset}": why for (partition, offset), why in clashes.items()}
        for where, reason in {**(refused or {}), **clashed}.items():
            self._put_meta(batch, f"refused_item/{where}", reason)
        if types != self.types:
            self._put_meta(batch, "attributes", types)
        self._db.write(batch)
        self.types = types
        return Change.between(before, latest)

    def _known(self, item_id: int) -> KnownItem | None:
        value = self._families["items"].get(_id(item_id))
        if value is not None:
            return KnownItem.of(value)
        value = self._families["withdrawn"].get(_id(item_id))
        return None if value is None else KnownItem.of(value, listed=False)

    def _put_known(self, batch: WriteBatch, item_id: int, known: KnownItem) -> None:
        key = _id(item_id)
        here, there = ("items", "withdrawn") if known.listed else ("withdrawn", "items")
        batch.put(key, known.value(), self._handles[here])
        batch.delete(key, self._handles[there])
        batch.put(_place(*known.said), key, self._handles["places"])
        if known.listed and known.item is not None and known.item.state == "hidden":
            batch.put(key, b"", self._handles["hidden"])
        else:
            batch.delete(key, self._handles["hidden"])

    def hidden(self) -> list[int]:
        """Ids of the items that are hidden, ascending."""
        keys = cast(Iterator[bytes], self._families["hidden"].keys())
        return [int.from_bytes(key, "big") for key in keys]

    def said_of(self, item_id: int) -> Item | None:
        """An item as it was announced last, or what is kept of it since it was withdrawn."""
        known = self._known(item_id)
        return None if known is None else known.item

    def all_said(self) -> Iterator[tuple[int, Item | None]]:
        """Every item as `said_of` tells it, those that are withdrawn last."""
        for family in ("items", "withdrawn"):
            for key, value in self._pairs(family, b""):
                yield int.from_bytes(key, "big"), KnownItem.of(value).item

    def withdrawn(self) -> list[int]:
        """Ids of the items that were withdrawn and not listed again, ascending."""
        keys = cast(Iterator[bytes], self._families["withdrawn"].keys())
        return [int.from_bytes(key, "big") for key in keys]

    def withdrawn_at(self, item_id: int) -> tuple[int, tuple[int, int]]:
        """When a withdrawn item was, in ms, and the partition and offset of the record."""
        value = cast(bytes, self._families["withdrawn"][_id(item_id)])
        known = KnownItem.of(value, listed=False)
        return known.first_seen, known.said

    def forget_withdrawn(self, item_ids: Iterable[int]) -> None:
        """Nothing is known any more of items that were withdrawn."""
        batch, types = WriteBatch(raw_mode=True), TypeCounts(self.types)
        for item_id in item_ids:
            types.replace(self.said_of(item_id), None)
            batch.delete(_id(item_id), self._handles["withdrawn"])
        if types != self.types:
            self._put_meta(batch, "attributes", types)
        self._db.write(batch)
        self.types = types

    def said_since(self, position: Mapping[int, int]) -> Ids:
        """Ids of the items that were listed anew or withdrawn at or behind a position, ascending.

        Costs what was said since, as long as it was not `forgotten`: then it costs all items.
        """
        forgotten: dict[str, int] = self.meta("forgotten") or {}
        if all(position.get(int(p), 0) >= offset for p, offset in forgotten.items()):
            found = []
            for partition in self.position:
                first, end = _place(partition, position.get(partition, 0)), _place(partition + 1, 0)
                for key, value in self._pairs("places", first):
                    if key >= end:
                        break
                    found.append(value)
            return np.unique(np.frombuffer(b"".join(found), ">i8").astype(np.int64))
        since = []
        for family in ("items", "withdrawn"):
            for key, value in self._pairs(family, b""):
                partition, offset = KnownItem.of(value).said
                if offset >= position.get(partition, 0):
                    since.append(int.from_bytes(key, "big"))
        return np.array(sorted(since), np.int64)

    def forget_places(self, position: Mapping[int, int]) -> None:
        """What was said before a position is asked for no more, but after damage."""
        forgotten = {int(p): offset for p, offset in (self.meta("forgotten") or {}).items()}
        batch = WriteBatch(raw_mode=True)
        for partition, offset in position.items():
            if offset > forgotten.get(partition, 0):
                first, end = _place(partition, 0), _place(partition, offset)
                batch.delete_range(first, end, self._handles["places"])
                forgotten[partition] = offset
        self._put_meta(batch, "forgotten", {str(p): offset for p, offset in forgotten.items()})
        self._db.write(batch)

    @property
    def is_within_bounds(self) -> bool:
        """Whether everything stored has passed `streaming.bounds`: an older store may hold more."""
        return self.meta("bounds") == BOUNDS

    def take_out(self, item_ids: Iterable[int], refused: Mapping[str, str]) -> None:
        """Items that are no items by today's bounds, with the reasons as in `announce`."""
        batch = WriteBatch(raw_mode=True)
        for item_id in item_ids:
            batch.delete(_id(item_id), self._handles["items"])
        for place, reason in refused.items():
            self._put_meta(batch, f"refused_item/{place}", reason)
        self._put_meta(batch, "bounds", BOUNDS)
        self._db.write(batch, self._durable)

    def listed(self, item_id: int) -> ListedItem | None:
        """One item, None if it was never announced."""
        value = self._families["items"].get(_id(item_id))
        return None if value is None else _listed(value)

    def count_listed(self) -> int:
        """How many items are listed."""
        return sum(1 for _ in self._families["items"].keys())  # noqa: SIM118 - no dictionary

    def all_listed(self) -> Iterator[ListedItem]:
        """Every item, ascending by id."""
        for value in self._families["items"].values():
            yield _listed(value)

    def count_refused_items(self) -> int:
        """How many records of `items` were refused."""
        return self.count_meta("refused_item/")


def _listed(value: bytes) -> ListedItem:
    known = KnownItem.of(value)
    assert known.item is not None  # noqa: S101 - what is listed is kept
    return ListedItem(known.item, known.first_seen, *known.at)
