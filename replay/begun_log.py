"""Which log a data directory has begun to replay, and whether a file still is that log.

    <data_dir>/replay/begun.json   how many clicks of the staged log are sent, at the least

It is there from the first record on. From then on only a file with the same events up to there may
take the place of the staged log: one that has grown at its end. Another log, or one that was
changed where it was replayed already, is refused before anything of it is sent.
"""

from __future__ import annotations

import glob
import json
from itertools import islice
from pathlib import Path

import duckdb
import pyarrow as pa

from replay.errors import BadLine, ReplayError
from replay.formats.record import Event
from replay.identity import event_id
from replay.log_file import numbered_events
from replay.staged_log import EVENTS
from streaming.durable_files import write_atomically

BEGUN = "begun.json"
LOOKED_AT = 2_000
"""Lines of a file that are looked at before it is sorted: mostly enough to know another log."""
ORDER = "(event_time, event_id)"


def note(root: Path, clicks: int) -> None:
    """Remember that at least the log's first `clicks` clicks are sent; 0 with the first item.

    Raises:
        OSError: if it cannot be written.
    """
    clicks = max(clicks, clicks_sent(root) or 0)
    write_atomically(root / BEGUN, json.dumps({"clicks": clicks}).encode(), sync=False)


def clicks_sent(root: Path) -> int | None:
    """How many clicks are sent at the least; None if nothing is, or nobody has noted it."""
    try:
        return int(json.loads((root / BEGUN).read_bytes())["clicks"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return 0  # begun, and Kafka knows how far


class BegunLog:
    """The staged log of a data directory, of which something was sent.

    Args:
        directory: of the staged log.
        source: the file that it was made from.
        clicks: how many are sent at the least; the first counts in any case.
    """

    def __init__(self, directory: Path, source: str, clicks: int) -> None:
        self._events = _parquet(directory)
        self._source = source
        self._clicks = max(clicks, 1)
        self._place = directory.parent.parent

    def refuse_unlike(self, file: Path, now_ms: int) -> None:
        """Look at the first lines of a file, before it is sorted.

        Raises:
            ReplayError: if one of them, by its time, would have been replayed already, and was not.
        """
        head = list(islice(numbered_events(file, now_ms, _ignore), LOOKED_AT))
        rows = pa.table(
            {
                "line": [line for line, _ in head],
                "event_id": [event_id(*e) for _, e in head],
                "event_time": [e.time_ms for _, e in head],
            }
        )
        with duckdb.connect() as sql:
            sql.register("head", rows)
            found = sql.execute(
                f"""
                WITH sent AS (
                    SELECT * FROM read_parquet(?, file_row_number = true)
                    WHERE file_row_number < ?
                )
                SELECT line FROM head
                WHERE {ORDER} <= (SELECT {ORDER} FROM sent ORDER BY file_row_number DESC LIMIT 1)
                AND event_id NOT IN (SELECT event_id FROM sent) ORDER BY line LIMIT 1
                """,  # noqa: S608 - a constant of ours
                [self._events, self._clicks],
            ).fetchone()
        if found:
            self._refuse_line(file, found[0], dict(head)[found[0]])

    def refuse_changed(self, staged: Path, file: Path, now_ms: int) -> None:
        """Compare all that was sent with another staged log, made from `file`.

        Raises:
            ReplayError: naming the first event that is another, and its line.
        """
        with duckdb.connect() as sql:
            found = sql.execute(
                """
                WITH ours AS (SELECT * FROM read_parquet(?, file_row_number = true)),
                theirs AS (SELECT * FROM read_parquet(?, file_row_number = true))
                SELECT file_row_number, ours.event_id, ours.user_id, ours.item_id,
                       ours.event_time // 1000, theirs.event_id, theirs.event_time
                FROM ours LEFT JOIN theirs USING (file_row_number)
                WHERE file_row_number < ? AND ours.event_id IS DISTINCT FROM theirs.event_id
                ORDER BY file_row_number LIMIT 1
                """,
                [self._events, _parquet(staged), self._clicks],
            ).fetchone()
            if not found:
                return
            position, ours, user, item, seconds, theirs, _ = found
            added = (
                theirs
                and not sql.execute(
                    "SELECT 1 FROM read_parquet(?) WHERE event_id = ? LIMIT 1",
                    [self._events, theirs],
                ).fetchone()
            )
        if added:
            for line, event in numbered_events(file, now_ms, _ignore):
                if event_id(*event) == theirs:
                    self._refuse_line(file, line, event)
        self._refuse(
            f"{file} lacks what is event {position} there, user {user}, item {item}, time "
            f"{seconds} ({ours})"
        )

    def _refuse_line(self, file: Path, line: int, event: Event) -> None:
        self._refuse(
            f"{file} line {line} (user {event.user}, item {event.item}, time "
            f"{event.time_ms // 1000}) is not in it"
        )

    def _refuse(self, difference: str) -> None:
        raise ReplayError(
            f"{self._place} holds another log (of {self._source}; {self._clicks:,} of its clicks "
            f"are sent): {difference}; go on with that log (leave out --events), begin anew with "
            "--fresh, or choose another --data-dir"
        )


def _parquet(directory: Path) -> str:
    """The events' file for DuckDB, which would take `*` in a path for a pattern."""
    return glob.escape(str(directory / EVENTS))


def _ignore(_: BadLine) -> None:
    """Bad lines are counted when the file is staged."""
