"""What the topic `items` says of a catalogue, so that only what is new or changed is announced.

The last record of an item counts. If it was sent by a replay and says the same, the item is
announced; if it says something else, the catalogue has changed. If another producer has had the
last word (the shop's own feed, or a tombstone that withdraws the item), it stands.

That takes reading the topic, so what has been announced to the end is noted:

    <data_dir>/replay/announced.json   the digest of the staged catalogue
"""

from __future__ import annotations

import hashlib
import json
import time
from array import array
from collections.abc import Callable
from typing import Any

import numpy as np
from kafka import TopicPartition

from replay.producer import POSITION, Patience
from replay.resumption import SETTLED_SECONDS, poll_on, read_patiently
from replay.staged_log import ITEMS, StagedLog
from streaming.bounds import EventError
from streaming.durable_files import write_atomically
from streaming.items import Item, item_of_key

ANNOUNCED = "announced.json"
FOREIGN = 0
"""Mark of an item about which another producer had the last word."""
MAX_RECORDS = 8192


def is_announced(log: StagedLog) -> bool:
    """Whether exactly this catalogue was announced to its end."""
    try:
        noted = json.loads((log.directory.parent / ANNOUNCED).read_bytes())
        return bool(noted["items"] == _digest(log))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def note_announced(log: StagedLog) -> None:
    """Remember that this catalogue was announced to its end.

    Raises:
        OSError: if it cannot be written.
    """
    path = log.directory.parent / ANNOUNCED
    write_atomically(path, json.dumps({"items": _digest(log)}).encode(), sync=False)


def _digest(log: StagedLog) -> str:
    with (log.directory / ITEMS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _mark(value: bytes) -> int:
    """63 bits of a digest of a record's value, never `FOREIGN`."""
    return int.from_bytes(hashlib.blake2b(value, digest_size=8).digest(), "big") >> 1 or 1


class AnnouncedItems:
    """The last record of each item, 16 bytes an item; `add` all, then `settle`, then ask."""

    def __init__(self) -> None:
        self._added = array("q"), array("q")
        self._ids = self._marks = np.empty(0, np.int64)

    def add(self, key: bytes | None, value: bytes | None, *, ours: bool) -> None:
        """Take a record, in the order of its partition; one without an item's key is no item."""
        try:
            number, _ = item_of_key(key)
        except EventError:
            return
        ids, marks = self._added
        ids.append(number)
        marks.append(_mark(value) if ours and value is not None else FOREIGN)

    def settle(self) -> None:
        """All is added."""
        ids, marks = (np.frombuffer(column, np.int64) for column in self._added)
        self._ids, last = np.unique(ids[::-1], return_index=True)  # the last one counts
        self._marks = marks[::-1][last]

    def __contains__(self, item: Item) -> bool:
        """Whether the item need not be announced."""
        row = int(self._ids.searchsorted(item.item_id))
        if row == len(self._ids) or self._ids[row] != item.item_id:
            return False
        return int(self._marks[row]) in (FOREIGN, _mark(item.to_bytes()))


def read_announced(
    topic: str, patience: Patience, sleep: Callable[[float], None] = time.sleep
) -> AnnouncedItems:
    """Read the whole topic.

    Args:
        topic: must exist.
        patience: how long to wait for Kafka.
        sleep: called with seconds, to see whether a killed producer's last records still arrive.

    Raises:
        ReplayError: if Kafka stays away for too long.
    """
    patience_ms = int(min(patience.seconds, 10.0) * 1000)
    return read_patiently(
        patience, MAX_RECORDS, lambda consumer: _read(consumer, topic, patience_ms, sleep)
    )


def _read(
    consumer: Any, topic: str, patience_ms: int, sleep: Callable[[float], None]
) -> AnnouncedItems:
    numbers = consumer.partitions_for_topic(topic) or ()
    partitions = [TopicPartition(topic, number) for number in sorted(numbers)]
    consumer.assign(partitions)
    consumer.seek_to_beginning(*partitions)
    ends: dict[TopicPartition, int] = {}
    found = AnnouncedItems()
    while (now := consumer.end_offsets(partitions)) != ends:
        ends = now
        while any((consumer.position(p) or 0) < ends[p] for p in partitions):
            for records in poll_on(consumer, partitions, patience_ms).values():
                for record in records:
                    ours = any(name == POSITION for name, _ in record.headers)
                    found.add(record.key, record.value, ours=ours)
        if any(ends.values()):
            sleep(SETTLED_SECONDS)
    found.settle()
    return found
