"""A trainer's source that gives out a log a part at a time, from files of lines on disk."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn, TypeVar

from model.training.micro_batch import ITEMS, SEQUENCES, Plan, Polled, Record
from model.training.source import Offsets
from streaming.events import parse_sequence
from streaming.items import announcement
from streaming.poison import Parser, parse
from tests.benchmarks.made_catalogue import MadeCatalogue

V = TypeVar("V")
ITEMS_AT_ONCE, SEQUENCES_AT_ONCE = 5_000, 2_000
"""As many as `model.training.sequence_source` reads."""


class Part(NamedTuple):
    """How many items and sequences there are, all before them among them."""

    items: int
    sequences: int


class LogFiles(NamedTuple):
    """Items by birth and sequences by time, as they are on the topics, one a line.

    Attributes:
        items, sequences: the files.
        parts: where a part of the log ends.
    """

    items: Path
    sequences: Path
    parts: list[Part]

    @classmethod
    def write(cls, made: MadeCatalogue, directory: Path, ends: list[int]) -> LogFiles:
        """Write a log whose parts end after so many events."""
        directory.mkdir(parents=True, exist_ok=True)
        items, sequences = directory / "items.jsonl", directory / "sequences.jsonl"
        with items.open("wb") as file:
            file.writelines(item.to_bytes() + b"\n" for item in made.items())
        with sequences.open("wb") as file:
            file.writelines(one.to_bytes() + b"\n" for one in made.sequences())
        parts = [Part(int((made.born_N <= made.times_E[e - 1]).sum()), e) for e in ends]
        return cls(items, sequences, parts)


class Lines:
    """Reads a file of lines on; keeps none."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("rb")
        self.read = 0

    def take(self, end: int, most: int) -> list[bytes]:
        """The next lines, at most `most`, up to before line `end`."""
        lines = list(itertools.islice(self._file, max(0, min(most, end - self.read))))
        self.read += len(lines)
        return [line[:-1] for line in lines]


class GrowingSource:
    """Gives out what `more` releases; asks it for more when all that was released is used up.

    Args:
        files: the log.
        used_up: whether the trainer has done with all that was released.
        more: waits for the next part to be released; None ends the log.
    """

    def __init__(
        self, files: LogFiles, used_up: Callable[[], bool], more: Callable[[], Part | None]
    ) -> None:
        self._items, self._sequences = Lines(files.items), Lines(files.sequences)
        self._used_up, self._more = used_up, more
        self._released: Part = Part(0, 0)
        self.ended = False

    def seek(self, offsets: Offsets) -> None:
        """A run begins at the beginning."""

    def poll(self, enough: Collection[int]) -> Polled:
        """Read on within what is released; the only partition is 0."""
        end = self._released
        if (self._items.read, self._sequences.read) == end and self._used_up():
            part = self._more()
            self.ended = part is None
            self._released = part or end
        polled = Polled(final=self.ended)
        start = self._sequences.read
        lines = self._sequences.take(
            self._released.sequences, 0 if 0 in enough else SEQUENCES_AT_ONCE
        )
        polled.sequences[0] = _records(parse_sequence, lines, start, SEQUENCES)
        start = self._items.read
        lines = self._items.take(self._released.items, ITEMS_AT_ONCE)
        polled.items[0] = _records(announcement, lines, start, ITEMS)
        read = {SEQUENCES: {0: self._sequences.read}, ITEMS: {0: self._items.read}}
        polled.next_offsets = read
        polled.ends = {
            SEQUENCES: {0: self._released.sequences},
            ITEMS: {0: self._released.items},
        }
        return polled

    def read(self, plan: Plan) -> NoReturn:
        """A run does not recover."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing to let go of."""


def _records(parser: Parser[V], lines: list[bytes], start: int, topic: str) -> list[Record[Any]]:
    place = {"topic": topic}
    return [
        Record(offset, parse(parser, None, line, place)) for offset, line in enumerate(lines, start)
    ]
