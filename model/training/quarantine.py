"""Micro-batches that could not be learnt: set aside, told of, and never lost sight of.

A loss, a gradient or a weight that is not a number any more makes the state useless, and so would
the next attempt: the same records from the same state give the same bits. So the state of before is
restored, the micro-batch is set aside, and training goes on behind it. Its records stay where they
are, on the topics; what is kept is where:

    trainer/quarantine/<journal entry, 12 digits>.json
        entry      number in the journal
        sequences  partition -> [first offset, offset after the last]
        events     sequences in it that would have been trained
        times      [first, last] event time in ms; empty without events
        users      of these sequences, at most 20
        reason     why it could not be learnt
"""

from __future__ import annotations

from collections.abc import Collection, Set
from pathlib import Path
from typing import Any, Protocol

import orjson

from model.training.micro_batch import MicroBatch, TrainerError
from streaming.durable_files import write_atomically

USERS = 20


def quarantine_facts(number: int, batch: MicroBatch, events: int, reason: str) -> dict[str, Any]:
    """What is kept of a micro-batch that was entry `number`."""
    times = [s.event_time for s in batch.sequences]
    return {
        "entry": number,
        "sequences": {str(p): list(ends) for p, ends in sorted(batch.plan.sequences.items())},
        "events": events,
        "times": [min(times), max(times)] if times else [],
        "users": list(dict.fromkeys(s.user_id for s in batch.sequences))[:USERS],
        "reason": reason,
    }


def without(facts: dict[str, Any], users: Collection[int]) -> dict[str, Any]:
    """The same without users who are to be forgotten."""
    return facts | {"users": [user for user in facts["users"] if user not in users]}


class Quarantined(Protocol):
    """Where it is written what was set aside."""

    def keep(self, facts: dict[str, Any]) -> None:
        """Note a micro-batch; noting it again changes nothing."""

    def forget(self, users: Set[int]) -> None:
        """Name these users no more."""


class QuarantineDirectory:
    """One file for each micro-batch; no file is ever removed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def keep(self, facts: dict[str, Any]) -> None:
        """Note a micro-batch; noting it again changes nothing.

        Raises:
            TrainerError: if it cannot be written.
        """
        path = self._directory / f"{facts['entry']:012d}.json"
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            write_atomically(path, orjson.dumps(facts, option=orjson.OPT_INDENT_2))
        except OSError as error:
            raise TrainerError(
                f"{path}: cannot be written ({error}); free some space or make the directory "
                "writable, then start again: nothing was lost"
            ) from error

    def forget(self, users: Set[int]) -> None:
        """Name these users no more.

        Raises:
            TrainerError: if a file cannot be written, or read.
        """
        for path in self._directory.glob("*.json"):
            try:
                facts = orjson.loads(path.read_bytes())
            except (OSError, ValueError) as error:
                raise TrainerError(
                    f"{path}: cannot be read ({error}), and may name users who are to be "
                    "forgotten; remove it, then start again"
                ) from error
            if not users.isdisjoint(facts["users"]):
                self.keep(without(facts, users))
