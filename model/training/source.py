"""Where the trainer's records come from."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from model.training.micro_batch import Plan, Polled, Record
from streaming.events import Forgotten, UserSequence
from streaming.items import Item, Withdrawal

Offsets = Mapping[str, Mapping[int, int]]
"""Stream -> partition -> offset."""


class SourceUnavailable(Exception):  # noqa: N818 - a state to wait out, not a failure
    """Nothing can be read for now; the trainer reports it and tries again."""


class Source(Protocol):
    """Two streams of records, each in partitions, that can be read again at any offset."""

    def seek(self, offsets: Offsets) -> None:
        """Make `poll` go on at these offsets; a partition that is not named starts at 0."""

    def poll(self, enough: Collection[int]) -> Polled:
        """Read on. Of `sequences`, partitions in `enough` may be left alone.

        Sequences are read first, then the items up to their end, so every item that was
        announced before a sequence's click is known with that sequence.

        Raises:
            SourceUnavailable: to be tried again.
            TrainerError: if the offsets are not in the log any more.
        """

    def read(
        self, plan: Plan
    ) -> tuple[
        dict[int, list[Record[Item | Withdrawal]]],
        dict[int, list[Record[UserSequence | Forgotten]]],
    ]:
        """Read exactly the ranges of a plan: items and sequences by partition.

        Raises:
            SourceUnavailable: to be tried again.
            TrainerError: if the offsets are not in the log any more.
        """

    def close(self) -> None:
        """Let go of connections."""
