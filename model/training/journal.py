"""The trainer's journal: every decision that a run again must take the same way.

What is trained together depends on what had arrived, and when a handover is due depends on a
clock. So each such decision is an entry, numbered from 1 without gaps, written and synced before
it is carried out: a `Plan` of a micro-batch, or a `Publication`. Weights, metrics and handover
numbers are a function of the entries; a checkpoint is the state after one of them. A plan that
cannot be learnt is replaced by a `Quarantine` of it, under the same number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import orjson

from model.training.micro_batch import Plan, TrainerError
from streaming.durable_files import make_folder

if TYPE_CHECKING:
    from rocksdict import Rdict


@dataclass(frozen=True)
class Publication:
    """The decision to publish handover number `sequence`, for `reason`."""

    sequence: int
    reason: str


@dataclass(frozen=True)
class Quarantine:
    """A micro-batch that could not be learnt, for `reason`: it takes the place of its `plan`."""

    plan: Plan
    reason: str


Entry = Plan | Publication | Quarantine


def _encode(entry: Entry) -> bytes:
    if isinstance(entry, Quarantine):
        return orjson.dumps({"plan": entry.plan.to_json(), "quarantine": entry.reason})
    if isinstance(entry, Plan):
        return orjson.dumps({"plan": entry.to_json()})
    return orjson.dumps({"publication": {"sequence": entry.sequence, "reason": entry.reason}})


def _decode(value: bytes) -> Entry:
    body: dict[str, Any] = orjson.loads(value)
    if "plan" in body:
        plan = Plan.from_json(body["plan"])
        return Quarantine(plan, str(body["quarantine"])) if "quarantine" in body else plan
    return Publication(int(body["publication"]["sequence"]), str(body["publication"]["reason"]))


class Journal(Protocol):
    """Numbered entries; `append` returns only when the entry would survive a crash."""

    def append(self, number: int, entry: Entry) -> None:
        """Add entry `number`, the one after the last, or replace the last one."""

    def entries(self, after: int) -> Iterator[tuple[int, Entry]]:
        """The entries with a greater number, in order."""

    def prune(self, through: int) -> None:
        """Forget the entries up to and including number `through`."""

    def close(self) -> None:
        """Let go of files and locks."""


class RocksJournal:
    """A journal in a rocksdict directory (raw mode, every write synced).

    Its lock also keeps a second trainer off the same data directory.

    Raises:
        TrainerError: from every method, when the directory is locked, damaged or not writable.
    """

    def __init__(self, directory: Path) -> None:
        from rocksdict import Options, Rdict, WriteOptions

        self._directory = directory
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_keep_log_file_num(2)
        options.set_write_buffer_size(1 << 20)
        try:
            make_folder(directory)
            self._db: Rdict = Rdict(str(directory), options)
            durable = WriteOptions()
            durable.sync = True
            self._db.set_write_options(durable)
        except Exception as error:  # rocksdict raises bare Exception
            raise self._failure("cannot be opened", error) from error

    def _failure(self, what: str, error: Exception) -> TrainerError:
        text = str(error)
        if "lock" in text.lower():
            remedy = "another trainer works in this data directory; stop it first"
        elif "No space" in text or "File too large" in text:
            remedy = "free some space and start again; nothing was lost"
        elif "orruption" in text or "malformed" in text:
            remedy = (
                "move the directory away and start again: training then goes on from the last "
                "checkpoint, exactly once, but not with the same micro-batches"
            )
        else:
            remedy = "check that the directory is writable"
        return TrainerError(f"{self._directory}: the journal {what} ({text}); {remedy}")

    def append(self, number: int, entry: Entry) -> None:
        """Add an entry and sync it."""
        try:
            self._db[number.to_bytes(8, "big")] = _encode(entry)
        except Exception as error:
            raise self._failure(f"entry {number} cannot be written", error) from error

    def entries(self, after: int) -> Iterator[tuple[int, Entry]]:
        """The entries with a greater number, in order."""
        try:
            found = [
                (int.from_bytes(cast(bytes, key), "big"), cast(bytes, value))
                for key, value in self._db.items(from_key=(after + 1).to_bytes(8, "big"))
            ]
        except Exception as error:
            raise self._failure("cannot be read", error) from error
        for number, value in found:
            try:
                yield number, _decode(value)
            except (ValueError, KeyError, TypeError) as error:
                raise self._failure(f"entry {number} is malformed", error) from error

    def prune(self, through: int) -> None:
        """Forget old entries."""
        try:
            self._db.delete_range(b"\0" * 8, (through + 1).to_bytes(8, "big"))
        except Exception as error:
            raise self._failure("cannot be pruned", error) from error

    def close(self) -> None:
        """Flush and release the lock."""
        self._db.close()
