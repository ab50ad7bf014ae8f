"""The canonical order and the catalogue, made by DuckDB from the records as they were read.

DuckDB works within a memory limit and spills what does not fit into the same directory.
"""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import duckdb

from replay.errors import BadLine, ReplayError, shown
from replay.identity import DUCKDB_MACROS
from replay.staged_log import EVENTS, ITEMS

RAW_EVENTS = "raw_events.parquet"
RAW_ITEMS = "raw_items.parquet"
ROW_GROUP = 122_880
SPILL = "spill"

REPEATED = """
SELECT item, line, first FROM (
    SELECT item, line, min(line) OVER (PARTITION BY numeric_id(item)) AS first FROM raw_items
) WHERE line > first ORDER BY line
"""
COLLISIONS = """
WITH users AS (SELECT DISTINCT "user" AS id FROM raw_events),
items AS (SELECT item AS id FROM raw_events UNION SELECT item FROM raw_items)
SELECT 'users', min(id), max(id) FROM users GROUP BY numeric_id(id) HAVING count(*) > 1
UNION ALL
SELECT 'items', min(id), max(id) FROM items GROUP BY numeric_id(id) HAVING count(*) > 1
LIMIT 1
"""
"""Two ids that have one number."""
CANONICAL_ORDER = """
SELECT event_id("user", item, time_ms, event_type) AS event_id, numeric_id("user") AS user_id,
       numeric_id(item) AS item_id, time_ms AS event_time, event_type
FROM raw_events ORDER BY event_time, event_id
"""
CATALOGUE = """
WITH listed AS (
    SELECT numeric_id(item) AS item_id, min(item) AS item, arg_min(title, line) AS title,
           arg_min(category, line) AS category, arg_min(external_id, line) AS external_id
    FROM raw_items GROUP BY 1
), clicked AS (
    SELECT numeric_id(item) AS item_id, min(item) AS item, min(time_ms) AS first_time
    FROM raw_events GROUP BY 1
), shop AS (  -- one text makes all of them text
    SELECT bool_or(NOT is_number(item)) AS has_text
    FROM (SELECT item FROM listed UNION ALL SELECT item FROM clicked)
)
SELECT item_id, coalesce(title, '') AS title, coalesce(category, '') AS category,
       coalesce(
           nullif(external_id, ''),
           CASE WHEN (SELECT has_text FROM shop) THEN coalesce(listed.item, clicked.item) END, ''
       ) AS external_id,
       coalesce(first_time, (SELECT min(time_ms) FROM raw_events)) AS listed_at
FROM listed FULL JOIN clicked USING (item_id) ORDER BY listed_at, item_id
"""
STRANGERS = """
SELECT (SELECT min(item) FROM raw_events), (SELECT min(item) FROM raw_items)
WHERE NOT EXISTS (SELECT 1 FROM raw_events SEMI JOIN raw_items USING (item))
"""
"""An item of each file, where none is in both."""


def _connect(directory: Path, memory_mb: int) -> duckdb.DuckDBPyConnection:
    sql = duckdb.connect(
        config={
            "memory_limit": f"{memory_mb}MiB",
            "temp_directory": str(directory / SPILL),
            "threads": min(os.cpu_count() or 1, 4),
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
    )
    sql.execute(DUCKDB_MACROS)
    return sql


def _check_repeated(
    sql: duckdb.DuckDBPyConnection, path: Path, allowed: bool, bad: Callable[[BadLine], None]
) -> None:
    again = sql.execute(REPEATED)
    while rows := again.fetchmany(10_000):
        for item, line, first in rows:
            if not allowed:
                raise ReplayError(
                    f"{path} line {line}: item_id {item} is already in line {first}; "
                    "keep one line for each item"
                )
            bad(BadLine(path, line, f"item {item} is already in line {first}; that one is kept"))


def sort(
    directory: Path,
    memory_mb: int,
    items: Path | None,
    repeats: bool,
    bad: Callable[[BadLine], None],
) -> list[str]:
    """Replace the raw files in `directory` by the sorted ones.

    Args:
        directory: holds `RAW_EVENTS` and `RAW_ITEMS`.
        memory_mb: DuckDB's memory limit in MiB.
        items: the catalogue file, for messages.
        repeats: whether it may hold an item again; if so the later entries go to `bad`.
        bad: called with each such line.

    Returns:
        What a person should know of the two files together.

    Raises:
        ReplayError: if an item is in the catalogue twice and must not be, or two ids have one
            number.
        duckdb.Error: if memory or disk do not suffice.
    """
    with _connect(directory, memory_mb) as sql:
        for name, view in ((RAW_EVENTS, "raw_events"), (RAW_ITEMS, "raw_items")):
            sql.read_parquet(glob.escape(str(directory / name))).create_view(view)
        notes = []
        for what, one, other in sql.execute(COLLISIONS).fetchall():
            raise ReplayError(
                f"the {what} {shown(one)} and {shown(other)} have the same number inside "
                "(streaming/ids.py) and cannot be told apart; write one of them in another way in "
                "all files, such as with a letter before it"
            )
        if items is not None:
            _check_repeated(sql, items, repeats, bad)
            for found in sql.execute(STRANGERS).fetchall():
                clicked, listed = map(shown, found)
                notes.append(
                    f"{items} lists none of the items of the log, which are written as {clicked}, "
                    f"here as {listed}: no item gets its title; give the catalogue of this log"
                )
        for name, query in ((EVENTS, CANONICAL_ORDER), (ITEMS, CATALOGUE)):
            sql.sql(query).write_parquet(
                str(directory / name), compression="zstd", row_group_size=ROW_GROUP
            )
    (directory / RAW_EVENTS).unlink()
    (directory / RAW_ITEMS).unlink()
    shutil.rmtree(directory / SPILL, ignore_errors=True)
    return notes
