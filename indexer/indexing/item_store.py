"""What the indexer knows, on disk: items, and positions.

A rocksdict database in raw mode (bytes in, bytes out; nothing is pickled). Column families:

    items      item id -> JSON: features, first_seen, and the partition and offset they came from
    withdrawn  item id -> JSON: the partition and offset of its tombstone
    places     partition and offset -> item id: what was said last, in order
    meta       offsets of `items`, the versions last used and served, what was refused

Ids are 8 bytes, big-endian, so that keys sort as numbers, and so are places. The order of a commit:
what was read and the offset it came from go in one WriteBatch; the version that is served is noted
after the pointer was replaced. Codes, vectors and lists are in the versions on disk, and nowhere
else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import orjson
from numpy.typing import NDArray
from rocksdict import Options, Rdict, WriteBatch, WriteOptions

from indexer.building.placing import ListedItem
from indexer.errors import IndexerError
from streaming.durable_files import make_folder
from streaming.events import Item, Withdrawal

Ids = NDArray[np.int64]

FAMILIES = ("items", "withdrawn", "places", "meta")
POSITION = "position/"
BOUNDS = 1
"""Of what is stored; another number when `streaming.bounds` refuses what it took before."""


@dataclass(frozen=True)
class Change:
    """What some records of `items` changed: ids of items, each in one of the three.

    Attributes:
        new: listed now, and not before.
        changed: with other features than before.
        withdrawn: not to be answered any more.
        listed_before: how many of those were listed.
    """

    new: list[int]
    changed: list[int]
    withdrawn: set[int]
    listed_before: int


def _id(item_id: int) -> bytes:
    return item_id.to_bytes(8, "big")


def _place(partition: int, offset: int) -> bytes:
    return partition.to_bytes(4, "big") + offset.to_bytes(8, "big")


class ItemStore:
    """The database in `directory`, owned by one process at a time."""

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
        if not self._meta("places"):  # of what an older version stored no places are noted
            self.forget_places(self.position)
            self.set_meta("places", 1)

    def close(self) -> None:
        """Release the database."""
        self._families.clear()
        self._handles.clear()
        self._db.close()

    def _meta(self, key: str) -> Any:
        value = self._families["meta"].get(key.encode())
        return None if value is None else orjson.loads(value)

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

    def set_meta(self, key: str, value: Any) -> None:
        """Write one JSON value, durably."""
        batch = WriteBatch(raw_mode=True)
        self._put_meta(batch, key, value)
        self._db.write(batch, self._durable)

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
        said: Iterable[tuple[Item | Withdrawal, int, int]],
        position: Mapping[int, int],
        refused: Mapping[str, str] | None = None,
    ) -> Change:
        """What records of `items` say, and the position after them, in one batch.

        An item announced again keeps its `first_seen`, and, with the same features, its record;
        one that was withdrawn meanwhile begins anew.

        Args:
            said: items listed or withdrawn, each with the partition and offset of its record.
            position: after them.
            refused: "partition/offset" of records that are no items, and the reason.
        """
        batch = WriteBatch(raw_mode=True)
        latest: dict[int, ListedItem | None] = {}
        places: dict[int, tuple[int, int]] = {}  # of the withdrawals
        known: set[int] = set()  # listed before all this
        for one, partition, offset in said:
            item_id = one.item_id
            if item_id not in latest and (stored := self.listed(item_id)) is not None:
                known.add(item_id)
                before: ListedItem | None = stored
            else:
                before = latest.get(item_id)
            if isinstance(one, Withdrawal):
                latest[item_id], places[item_id] = None, (partition, offset)
            elif before is None:
                latest[item_id] = ListedItem(one, one.listed_at, partition, offset)
            elif before.item != one:
                first = min(before.first_seen, one.listed_at)
                latest[item_id] = ListedItem(one, first, partition, offset)
        for item_id, listed in latest.items():
            key = _id(item_id)
            if listed is None:
                batch.delete(key, self._handles["items"])
                batch.put(key, orjson.dumps(places[item_id]), self._handles["withdrawn"])
                batch.put(_place(*places[item_id]), key, self._handles["places"])
                continue
            at = _place(listed.partition, listed.offset)
            batch.put(at, key, self._handles["places"])
            record = {"first_seen": listed.first_seen, "at": [listed.partition, listed.offset]}
            value = orjson.dumps({"item": listed.item, **record})
            batch.put(key, value, self._handles["items"])
            batch.delete(key, self._handles["withdrawn"])
        for partition, offset in position.items():
            self._put_meta(batch, f"{POSITION}{partition}", offset)
        for place, reason in (refused or {}).items():
            self._put_meta(batch, f"refused_item/{place}", reason)
        self._db.write(batch)
        withdrawn = {item_id for item_id, listed in latest.items() if listed is None}
        listed_now = latest.keys() - withdrawn
        return Change(
            sorted(listed_now - known),
            sorted(listed_now & known),
            withdrawn,
            len(withdrawn & known),
        )

    def withdrawn(self) -> list[int]:
        """Ids of the items that were withdrawn and not listed again, ascending."""
        keys = cast(Iterator[bytes], self._families["withdrawn"].keys())
        return [int.from_bytes(key, "big") for key in keys]

    def said_since(self, position: Mapping[int, int]) -> Ids:
        """Ids of the items that were listed anew or withdrawn at or behind a position, ascending.

        Costs what was said since, as long as it was not `forgotten`: then it costs all items.
        """
        forgotten: dict[str, int] = self._meta("forgotten") or {}
        if all(position.get(int(p), 0) >= offset for p, offset in forgotten.items()):
            found = []
            for partition in self.position:
                first, end = _place(partition, position.get(partition, 0)), _place(partition + 1, 0)
                for key, value in self._pairs("places", first):
                    if key >= end:
                        break
                    found.append(value)
            return np.unique(np.frombuffer(b"".join(found), ">i8").astype(np.int64))
        places = ((one.item.item_id, one.partition, one.offset) for one in self.all_listed())
        gone = (
            (int.from_bytes(key, "big"), *orjson.loads(value))
            for key, value in self._pairs("withdrawn", b"")
        )
        since = [
            item_id
            for item_id, partition, offset in (*places, *gone)
            if offset >= position.get(partition, 0)
        ]
        return np.array(sorted(since), np.int64)

    def forget_places(self, position: Mapping[int, int]) -> None:
        """What was said before a position is asked for no more, but after damage."""
        forgotten = {int(p): offset for p, offset in (self._meta("forgotten") or {}).items()}
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
        return self._meta("bounds") == BOUNDS

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

    # Versions.

    def reserve_version(self, at_least: int) -> int:
        """A version number that was never used before, recorded before anything is built."""
        version = max(self._meta("version") or 0, at_least - 1) + 1
        self.set_meta("version", version)
        return version

    def newest(self, what: str) -> int:
        """The highest "version" or "handover" that was ever served, 0 for none."""
        return self._meta(f"newest_{what}") or 0

    def commit_version(self, version: int, handover: int) -> None:
        """Note that a version is served and which handover it was made of; twice is once."""
        batch = WriteBatch(raw_mode=True)
        if version > self.newest("version"):
            self._put_meta(batch, "published", self.snapshots_published + 1)
        for what, number in (("version", version), ("handover", handover)):
            self._put_meta(batch, f"newest_{what}", max(self.newest(what), number))
        self._db.write(batch, self._durable)

    @property
    def snapshots_published(self) -> int:
        """How many versions were ever served."""
        return self._meta("published") or 0

    def refuse_handover(self, number: int, reason: str) -> None:
        """Remember that a handover is not to be tried again."""
        self.set_meta(f"refused_handover/{number}", reason)

    def refused_handover(self, number: int) -> str | None:
        """Why a handover was refused, None if it was not."""
        reason: str | None = self._meta(f"refused_handover/{number}")
        return reason

    def count_refused_handovers(self) -> int:
        """How many handovers were refused."""
        return sum(1 for _ in self._scan("meta", b"refused_handover/"))

    def count_refused_items(self) -> int:
        """How many records of `items` were refused."""
        return sum(1 for _ in self._scan("meta", b"refused_item/"))


def _listed(value: bytes) -> ListedItem:
    record = orjson.loads(value)
    return ListedItem(Item(**record["item"]), record["first_seen"], *record["at"])
