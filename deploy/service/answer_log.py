"""What was answered, with the probability of each item: the log that exploration is judged from.

With the propensity of every place (`indexer.search.exploration`) another policy can be evaluated
on what this one showed. Answers are gathered in memory and written by a thread of its own, one
Parquet file a minute or per 4,096 answers, under a temporary name first, so that a reader never
sees half a file. What was gathered since the last file is lost if the process is killed.

    DIR/<first answer, wall clock ms, but rising>-<worker>-<number>.parquet
        answered_ms int64    wall clock
        now_ms      int64    time that the query was answered for
        version     int64    snapshot
        user_id     int64    null where a history was given
        history     list<int64>   items that the answer rests on, oldest first, at most 50
        items       list<int64>   best first
        codes       list<int32>   first-level code that brought each item
        propensities list<float>  1 for what was ranked, less for what was drawn
        split       string   that ran (`deploy.release.split`); null without one
        arm         string   of the split, `default` for who is in none
        shadow      bool     answered into the log only: the user got what `default` answers

A user who was forgotten is in no answer any more that waits to be written; files that hold some of
theirs are written anew without them, each by the worker that wrote it, and by the first one. Files
older than `keep_seconds` are removed.

Where a file cannot be written, its answers are kept in memory and written later, up to four files
of them; what is beyond, or comes faster than it can be written, is counted as lost.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import structlog

from deploy.service.config import AnswerLogConfig
from indexer.search.query import Answer, Query
from streaming.events import HISTORY_LENGTH

log = structlog.get_logger(__name__)

SCHEMA = pa.schema(
    [
        ("answered_ms", pa.int64()),
        ("now_ms", pa.int64()),
        ("version", pa.int64()),
        ("user_id", pa.int64()),
        ("history", pa.list_(pa.int64())),
        ("items", pa.list_(pa.int64())),
        ("codes", pa.list_(pa.int32())),
        ("propensities", pa.list_(pa.float32())),
        ("split", pa.string()),
        ("arm", pa.string()),
        ("shadow", pa.bool_()),
    ]
)
SUFFIX, PARTIAL, ANEW = ".parquet", ".partial", ".anew-by-"
USER = SCHEMA.get_field_index("user_id")
LOOK_SECONDS = 60.0
"""How often one looks for files that are too old."""
RETRY_SECONDS = 10.0
"""After which it is tried again to write a file."""


class ArmOf(NamedTuple):
    """Where in a split an answer belongs."""

    split: str | None = None
    arm: str | None = None
    shadow: bool = False


NO_SPLIT = ArmOf()


class AnswerLog:
    """Takes answers from any thread; `run` writes them.

    Attributes:
        written: answers in files.
        lost: answers that are in none, and will be in none.
        problem: why the last file could not be written; empty if it could.
    """

    def __init__(
        self,
        directory: Path,
        config: AnswerLogConfig,
        clock: Callable[[], float] = time.time,
        worker: int = 1,
        keep_seconds: float | None = None,
    ) -> None:
        self._directory = directory
        self._config = config
        self._clock = clock
        self._worker = worker
        self._keep_seconds = keep_seconds
        self._forgotten: queue.SimpleQueue[tuple[int, float]] = queue.SimpleQueue()
        self._waiting: queue.Queue[tuple[object, ...]] = queue.Queue(4 * config.rows)
        self._files = 0
        self._newest_ms = 0
        self.written = 0
        self.lost = 0
        self.problem = ""

    def add(
        self,
        version: int,
        user_id: int | None,
        query: Query,
        answer: Answer,
        place: ArmOf = NO_SPLIT,
    ) -> None:
        """Log an answer; never waits."""
        if not self._config.enabled:
            return
        row = (
            int(self._clock() * 1000),
            answer.now_ms,
            version,
            user_id,
            list(query.items)[-HISTORY_LENGTH:],
            answer.items,
            answer.codes,
            answer.propensities,
            *place,
        )
        try:
            self._waiting.put_nowait(row)
        except queue.Full:
            self.lost += 1

    def forget(self, user_id: int, until_ms: float | None = None) -> None:
        """Let go of what was answered to a user, in files, too; never waits.

        Args:
            user_id: whose answers go.
            until_ms: wall clock; what was answered later stays. None: all that there are.
        """
        self._forgotten.put((user_id, float("inf") if until_ms is None else until_ms))

    def run(self, stop: threading.Event) -> None:
        """Write files until `stop` is set, and what is left then."""
        for begun in (f"*-{self._worker}-*{PARTIAL}", f"*{ANEW}{self._worker}"):
            for left in self._directory.glob(begun):  # by a killed process
                left.unlink(missing_ok=True)
        rows: list[tuple[object, ...]] = []
        due = time.monotonic() + self._config.seconds
        looked = float("-inf")
        while not stop.is_set():
            rows = self._without_forgotten(rows)
            if time.monotonic() >= looked + LOOK_SECONDS:
                self._remove_old()
                looked = time.monotonic()
            with contextlib.suppress(queue.Empty):
                rows.append(self._waiting.get(timeout=0.5))
            enough = len(rows) >= self._config.rows and not self.problem
            if enough or (rows and time.monotonic() >= due):
                if self._write(rows):
                    rows = []
                else:
                    surplus = max(0, len(rows) - 4 * self._config.rows)
                    self.lost += surplus
                    rows = rows[surplus:]
            if time.monotonic() >= due:
                due = time.monotonic() + min(self._config.seconds, RETRY_SECONDS if rows else 1e9)
        while not self._waiting.empty():
            rows.append(self._waiting.get())
        rows = self._without_forgotten(rows)
        if rows and not self._write(rows):
            self.lost += len(rows)

    def _without_forgotten(self, rows: list[tuple[object, ...]]) -> list[tuple[object, ...]]:
        """The rows that are kept; files are written anew where they hold others."""
        users = dict[int, float]()
        while not self._forgotten.empty():
            user, until_ms = self._forgotten.get()
            users[user] = max(until_ms, users.get(user, 0))
        if not users:
            return rows
        for _ in range(self._waiting.qsize()):
            rows.append(self._waiting.get())
        whose = "*" if self._worker == 1 else f"*-{self._worker}-*"
        try:
            for path in self._directory.glob(f"{whose}{SUFFIX}"):
                self._rewrite(path, users)
        except OSError as error:
            log.warning("answers to be forgotten wait", users=len(users), reason=str(error))
            for one in users.items():
                self._forgotten.put(one)
            time.sleep(1)
        return [row for row in rows if not _is_theirs(users, row[USER], row[0])]

    def _rewrite(self, path: Path, users: Mapping[int, float]) -> None:
        with contextlib.suppress(FileNotFoundError):  # it was removed as the oldest
            try:
                answers = _of_others(path, users)
            except pa.ArrowInvalid as error:  # it may hold theirs, and nobody can read it
                log.error("a damaged file of answers is removed", path=str(path), reason=str(error))
                path.unlink()
                return
            if answers is not None:
                # another worker may write the same file anew, or remove what it began itself
                partial = path.with_suffix(f"{ANEW}{self._worker}")
                pq.write_table(answers, partial, compression="zstd")
                partial.replace(path)

    def _remove_old(self) -> None:
        if self._keep_seconds is None:
            return
        before_ms = (self._clock() - self._keep_seconds) * 1000
        for path in self._directory.glob(f"*{SUFFIX}"):
            stamp = path.name.partition("-")[0]
            if stamp.isdigit() and int(stamp) < before_ms:
                path.unlink(missing_ok=True)

    def _stamp(self, rows: list[tuple[object, ...]]) -> int:
        """The time of the first answer in ms, but later than any file before: names give the order.

        Else, once the clock is put back, the newest files would be removed as the oldest.
        """
        names = [path.name.partition("-")[0] for path in self._directory.glob(f"*{SUFFIX}")]
        newest = max([self._newest_ms, *(int(name) for name in names if name.isdigit())])
        self._newest_ms = max(int(str(rows[0][0])), newest + 1)
        return self._newest_ms

    def _write(self, rows: list[tuple[object, ...]]) -> bool:
        columns = [
            pa.array(column, kind)
            for column, kind in zip(zip(*rows, strict=True), SCHEMA.types, strict=True)
        ]
        name = f"{self._stamp(rows):015d}-{self._worker}-{self._files:06d}"
        path = self._directory / f"{name}{SUFFIX}"
        partial = path.with_suffix(PARTIAL)
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table(columns, schema=SCHEMA), partial, compression="zstd")
            partial.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            if not self.problem:
                log.warning("answers wait to be logged", answers=len(rows), reason=str(error))
            self.problem = str(error)
            return False
        self.problem = ""
        self._files += 1
        self.written += len(rows)
        # what is written is not written again because an older file cannot go, or is gone already
        with contextlib.suppress(OSError):
            for old in sorted(self._directory.glob(f"*{SUFFIX}"))[: -self._config.keep_files]:
                old.unlink(missing_ok=True)
        return True


def _is_theirs(users: Mapping[int, float], user: Any, answered_ms: Any) -> bool:
    """Whether an answer is to be forgotten."""
    return user in users and answered_ms <= users[user]


def _of_others(path: Path, users: Mapping[int, float]) -> pa.Table | None:
    """The answers of a file but for those to be forgotten; None if it has none of them."""
    asked = pq.read_table(path, columns=["user_id"])["user_id"]
    if not pc.any(pc.is_in(asked, pa.array(list(users), pa.int64()))).as_py():
        return None
    answers = pq.read_table(path)  # which another worker may have written anew since
    pairs = zip(answers["user_id"].to_pylist(), answers["answered_ms"].to_pylist(), strict=True)
    kept = [not _is_theirs(users, *pair) for pair in pairs]
    return None if all(kept) else answers.filter(pa.array(kept, pa.bool_()))


def read_answers(directory: Path) -> pa.Table:
    """All logged answers, oldest first; columns as in the module's head.

    Raises:
        OSError: a file cannot be read.
    """
    files = sorted(directory.glob(f"*{SUFFIX}"))
    tables = [SCHEMA.empty_table(), *(pq.read_table(f) for f in files)]
    return pa.concat_tables(tables, promote_options="default")  # older files know no splits
