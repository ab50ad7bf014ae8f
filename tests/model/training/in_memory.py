"""What a trainer keeps and reads, in memory: for runs that begin anew anyway."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.artifacts.handover_facts import HandoverFacts
from model.training.checkpoint import Saved, Take
from model.training.journal import Entry
from model.training.micro_batch import ITEMS, SEQUENCES, Plan, Polled, Record
from model.training.source import Offsets
from streaming.events import Forgotten, UserSequence, parse_sequence
from streaming.items import Item, Withdrawal, announcement
from streaming.poison import parse

if TYPE_CHECKING:
    from model.learning.export import Export
    from model.retrieval.item_segments import ItemSegments
    from model.retrieval.retrieval_model import RetrievalModel


class MemoryJournal:
    """A journal that lasts as long as the object."""

    def __init__(self) -> None:
        self._entries: dict[int, Entry] = {}

    def append(self, number: int, entry: Entry) -> None:
        self._entries[number] = entry

    def entries(self, after: int) -> Iterator[tuple[int, Entry]]:
        for number in sorted(n for n in self._entries if n > after):
            yield number, self._entries[number]

    def prune(self, through: int) -> None:
        self._entries = {n: e for n, e in self._entries.items() if n > through}

    def close(self) -> None:
        pass


class MemoryCheckpoints:
    """Keeps nothing: for recorded runs, which begin anew anyway."""

    def newest(self) -> Saved | None:
        return None

    def save(self, take: Take, *, anew: bool = False) -> int:
        return take(False).entry


class MemoryHandovers:
    """Counts publications and keeps none: for recorded runs, whose `answerer` is all they need."""

    def __init__(self) -> None:
        self.facts: list[dict[str, Any]] = []

    def newest(self) -> int:
        """The highest number so far."""
        return len(self.facts)

    def items(self, number: int) -> ItemSegments | None:
        """Nothing is kept, so every publication says everything."""
        return None

    def publish(self, number: int, export: Export, facts: HandoverFacts) -> None:
        """Keep the facts."""
        self.facts.append(facts.to_json())

    def model(self, number: int) -> RetrievalModel | None:
        """Nothing is kept."""
        return None


class RecordedSource:
    """Records that are all there from the beginning: lists in memory, or files of JSON lines.

    `sequences` holds one list per partition, as parsed records or as bytes still to be parsed;
    the offset of a record is its index. `items` is one partition; a withdrawal comes with its time.
    """

    def __init__(
        self,
        sequences: Sequence[Sequence[UserSequence | Forgotten | bytes]],
        items: Sequence[Item | bytes | tuple[Withdrawal, int]] = (),
        poll_records: int = 2048,
    ) -> None:
        self._sequences = sequences
        self._items = items
        self._poll_records = poll_records
        self.seek({})

    @classmethod
    def from_files(cls, sequences: Path, items: Path | None = None) -> RecordedSource:
        """One JSON object per line, as on the topics; the offset is the line number from 0.

        Raises:
            OSError: if a file cannot be read.
        """
        return cls(
            [sequences.read_bytes().splitlines()], items.read_bytes().splitlines() if items else ()
        )

    def seek(self, offsets: Offsets) -> None:
        """Make `poll` go on at these offsets."""
        self._next = dict(offsets.get(SEQUENCES, {}))
        self._next_item = offsets.get(ITEMS, {}).get(0, 0)

    def _sequence(self, partition: int, offset: int) -> Record[UserSequence | Forgotten]:
        value = self._sequences[partition][offset]
        if isinstance(value, bytes):
            place = {"topic": SEQUENCES, "partition": partition, "offset": offset}
            return Record(offset, parse(parse_sequence, None, value, place))
        return Record(offset, value)

    def _item(self, offset: int) -> Record[Item | Withdrawal]:
        value = self._items[offset]
        if isinstance(value, bytes):
            place = {"topic": ITEMS, "partition": 0, "offset": offset}
            return Record(offset, parse(announcement, None, value, place))
        return Record(offset, *value) if isinstance(value, tuple) else Record(offset, value)

    def poll(self, enough: Collection[int]) -> Polled:
        """Read on, up to `poll_records` of each partition, and all items."""
        polled = Polled(final=True)
        for partition, records in enumerate(self._sequences):
            start = self._next.get(partition, 0)
            end = start if partition in enough else min(start + self._poll_records, len(records))
            polled.sequences[partition] = [self._sequence(partition, o) for o in range(start, end)]
            self._next[partition] = end
        item_end = min(self._next_item + self._poll_records, len(self._items))
        polled.items[0] = [self._item(o) for o in range(self._next_item, item_end)]
        self._next_item = item_end
        polled.next_offsets = {SEQUENCES: dict(self._next), ITEMS: {0: item_end}}
        polled.ends = {
            SEQUENCES: {p: len(records) for p, records in enumerate(self._sequences)},
            ITEMS: {0: len(self._items)},
        }
        polled.log_ends = dict(polled.ends[SEQUENCES])
        return polled

    def read(
        self, plan: Plan
    ) -> tuple[
        dict[int, list[Record[Item | Withdrawal]]],
        dict[int, list[Record[UserSequence | Forgotten]]],
    ]:
        """Read exactly the ranges of a plan."""
        return (
            {
                p: [self._item(o) for o in range(a, min(b, len(self._items)))]
                for p, (a, b) in plan.items.items()
            },
            {
                p: [self._sequence(p, o) for o in range(a, min(b, len(self._sequences[p])))]
                for p, (a, b) in plan.sequences.items()
            },
        )

    def close(self) -> None:
        """Nothing to let go of."""
