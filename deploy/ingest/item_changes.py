"""Changes of items: who changes one field has to know the others, as a record says all of its item.

A change begins from what `items` said last: the properties that the indexer keeps, once they cover
all that is in the topic now, whoever said it. That takes as long as the indexer is behind, some
tenths of a second after the last record. Until Kafka has the change, nobody here says anything else
of the item. So no change is lost that was acknowledged before another began, and of two that come
together none.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from kafka.errors import KafkaError

from deploy.ingest import records
from deploy.ingest.kafka_writer import KafkaAway, KafkaWriter
from deploy.ingest.records import ItemPatch
from indexer.catalogue.property_chain import covers
from indexer.catalogue.property_reader import PropertyReader
from indexer.errors import SnapshotError
from streaming.bounds import EventError
from streaming.committed_topic import CommittedTopic
from streaming.errors import KafkaUnavailable
from streaming.ids import collision
from streaming.item_attributes import MOST_NAMES, Kind, kind_of, require_few
from streaming.items import Item, require_in_order
from streaming.kafka_clients import KafkaConnection
from streaming.topics import Topics

PATIENCE_S = 5.0
"""A change waits so long for the indexer to have read what was said before."""
LOOK_S = 0.05


class Behind(Exception):  # noqa: N818 - says where the indexer is
    """What was said last of an item is not known yet, or cannot be read."""


class Unlisted(Exception):  # noqa: N818 - says what the item is
    """Nobody listed the item, or nothing is kept of it."""


class ItemChanges:
    """Lists items, changes and withdraws them; used by one event loop.

    Args:
        writer: brings records into Kafka.
        topics: where they go.
        properties: of the items, as the indexer has read them.
        ends: partition -> end of what is said of items; raises `KafkaAway`; asked in a thread.
    """

    def __init__(
        self,
        writer: KafkaWriter,
        topics: Topics,
        properties: PropertyReader,
        ends: Callable[[], Mapping[int, int]],
    ) -> None:
        self._writer = writer
        self._topics = topics
        self._properties = properties
        self._ends = ends
        self._writing: set[int] = set()
        self._done = asyncio.Condition()

    async def list(self, items: Sequence[Item]) -> None:
        """Return when Kafka has all of them.

        Raises:
            EventError: naming an attribute that has another type at other items, an id that has the
                number of another, or an item of which too much is said.
            RoomTaken, KafkaAway: as `KafkaWriter.write`.
        """
        self.require_texts(
            [(f"items.{at}.", one.item_id, one.external_id) for at, one in enumerate(items)]
        )
        self._require_types([(f"items.{at}.", one) for at, one in enumerate(items)])
        said = records.of_items(items, self._topics)
        async with self._alone({one.item_id for one in items}):
            await self._writer.write(said)

    async def withdraw(self, item_id: int, text: str = "") -> None:
        """Return when Kafka has it; raises as `list`. `text` is what the item is called."""
        self.require_texts([("", item_id, text)])
        async with self._alone({item_id}):
            await self._writer.write([records.withdrawal(item_id, self._topics)])

    async def change(self, item_id: int, patch: ItemPatch, text: str = "") -> None:
        """Return when Kafka has the item with these fields changed.

        Raises:
            Unlisted: if there is nothing to change.
            Behind: if it is not known in time what the item is.
            EventError: naming the field that makes no sense then.
            RoomTaken, KafkaAway: as `KafkaWriter.write`.
        """
        async with self._alone({item_id}):
            before = await self._said_of(item_id)
            self.require_texts([("", item_id, text)])
            if before is None:
                raise Unlisted
            after = changed(before, patch)
            self._require_types([("", after)])
            await self._writer.write(records.of_items([after], self._topics))

    @asynccontextmanager
    async def _alone(self, item_ids: Collection[int]) -> AsyncIterator[None]:
        """Nobody else writes any of these items meanwhile."""
        async with self._done:
            await self._done.wait_for(lambda: self._writing.isdisjoint(item_ids))
            self._writing |= set(item_ids)
        try:
            yield
        finally:
            async with self._done:
                self._writing -= set(item_ids)
                self._done.notify_all()

    async def _said_of(self, item_id: int) -> Item | None:
        deadline = time.monotonic() + PATIENCE_S
        ends = await asyncio.to_thread(self._ends)
        while True:
            try:
                await asyncio.to_thread(self._properties.read)
            except SnapshotError as error:
                raise Behind(str(error)) from error
            if covers(self._properties.position, ends):
                return self._properties.item(item_id)
            if time.monotonic() > deadline:
                raise Behind("the indexer has not read all that was said of items")
            await asyncio.sleep(LOOK_S)

    def require_texts(self, items: Sequence[tuple[str, int, str]]) -> None:
        """Refuse an item that is called so and has the number of one that is called otherwise.

        Args:
            items: where it is said, the number, and the text, which is empty for a number.

        Raises:
            EventError: naming both.
        """
        named = [one for one in items if one[2]]
        if not named:
            return
        said: dict[int, str] = {}
        known = self._properties.external_ids([number for _, number, _ in named])
        for (place, number, text), before in zip(named, known, strict=True):
            if why := collision(number, said.setdefault(number, before or text), text):
                raise EventError(f"{place}item_id {why}")

    def _require_types(self, items: Sequence[tuple[str, Item]]) -> None:
        types: dict[str, Kind] = dict(self._properties.columns.types)
        for place, one in items:
            for name, value in one.attributes.items():
                if kind_of(value) != types.setdefault(name, kind_of(value)):
                    raise EventError(
                        f"{place}attributes.{name} is a {kind_of(value)}, and a {types[name]} at "
                        "other items: one attribute has one type"
                    )
            if len(types) > MOST_NAMES:
                raise EventError(f"{place}attributes: the items have {MOST_NAMES} names already")


def changed(item: Item, patch: ItemPatch) -> Item:
    """An item with what a change names; null takes back what was said.

    Raises:
        EventError: naming the field that makes no sense then.
    """
    bare = Item(item.item_id)
    given: dict[str, Any] = {name: getattr(patch, name) for name in patch.model_fields_set}
    fields = {name: getattr(bare, name) if v is None else v for name, v in given.items()}
    if given.get("attributes") is not None:
        merged = {**item.attributes, **given["attributes"]}
        fields["attributes"] = {name: value for name, value in merged.items() if value is not None}
        require_few(fields["attributes"])
    after = replace(item, **fields)
    require_in_order(after.available_from, after.available_until)
    return after


class TopicEnd:
    """Where a topic ends, asked from any thread.

    Args:
        kafka: where it is.
        topic: its name.
    """

    def __init__(self, kafka: KafkaConnection, topic: str) -> None:
        self._kafka = kafka
        self._topic = topic
        self._lock = threading.Lock()
        self._reader: CommittedTopic | None = None

    def __call__(self) -> dict[int, int]:
        """Partition -> end of what is committed.

        Raises:
            KafkaAway: if it does not say.
        """
        with self._lock:
            try:
                if self._reader is None:
                    self._reader = CommittedTopic(self._kafka, self._topic, 1, 3_000)
                return self._reader.ends()
            except (KafkaError, KafkaUnavailable) as error:
                reader, self._reader = self._reader, None
                if reader is not None:
                    reader.close()
                raise KafkaAway from error
