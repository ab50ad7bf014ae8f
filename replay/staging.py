"""A log in the canonical order, on disk, made once for each content of its files.

    <data_dir>/replay/log-<digest>/   named after the content of the input files
        events.parquet   event_id, user_id, item_id, event_time (ms), event_type; row number = log
                         position
        items.parquet    item_id, title, category, external_id, listed_at (ms)
        bad_lines.csv    file, line, reason
        stage.json       written last: inputs with digests, counts, time range, notes

The order is by time, then by event id (its hexadecimal digits): never by place in the file, since
Amazon's day-resolution files list the events of one day by item. Items are ordered by `listed_at`,
the time of their first event (of the log's first event, where they have none), then by id.

Memory is bounded: the files are read in batches, DuckDB sorts out of core, and the result is read
in batches. The directory is built under a temporary name and renamed, so it is whole or absent.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from replay.begun_log import BegunLog, clicks_sent
from replay.errors import ReplayError
from replay.formats.recognition import recognise_events, recognise_items
from replay.log_file import BadLines, Listed, read_events, read_items, refusal
from replay.sorting import RAW_EVENTS, RAW_ITEMS, sort
from replay.staged_log import EVENTS, ITEMS, StagedLog, count_rows, time_range
from replay.text_file import check_file
from streaming.durable_files import sync_path

SCHEMA_VERSION = 2
STAGE = "stage.json"
PARTIAL = ".partial-"
RAW_BATCH = 65_536
EVENT_SCHEMA = pa.schema(
    [
        ("user", pa.string()),
        ("item", pa.string()),
        ("time_ms", pa.int64()),
        ("event_type", pa.string()),
    ]
)
ITEM_SCHEMA = pa.schema(
    [
        ("item", pa.string()),
        ("title", pa.string()),
        ("category", pa.string()),
        ("external_id", pa.string()),
        ("line", pa.int64()),
    ]
)


def _describe(path: Path) -> dict[str, Any]:
    check_file(path)
    status = path.stat()
    return {"path": str(path.resolve()), "bytes": status.st_size, "modified_ns": status.st_mtime_ns}


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ReplayError(f"{path}: {error.strerror}; make it a readable file") from error


def _stages(root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted(root.glob(f"log-*/{STAGE}")):
        try:
            stage = json.loads(path.read_bytes())
            whole = all((path.parent / name).is_file() for name in (EVENTS, ITEMS))
            if whole and stage["schema_version"] == SCHEMA_VERSION:
                yield path.parent, stage
        except (OSError, ValueError, KeyError, TypeError):
            continue  # an unreadable stage is made again


def _open(directory: Path, stage: dict[str, Any], strict: bool) -> StagedLog:
    if strict and stage["bad_lines"]:
        raise ReplayError(refusal(stage["first_bad_lines"][0]))
    return StagedLog(
        directory,
        stage["events"],
        stage["items"],
        stage["bad_lines"],
        tuple(stage["first_bad_lines"]),
        stage["first_time_ms"],
        stage["last_time_ms"],
        tuple(stage["notes"]),
    )


def _begun(root: Path) -> BegunLog | None:
    """The staged log, if something of it was sent."""
    clicks = clicks_sent(root)
    if clicks is None:
        return None
    for directory, found in _stages(root):
        return BegunLog(directory, found["inputs"][0]["path"], clicks)
    return None


def _write_raw(
    path: Path, schema: pa.Schema, rows: Iterable[Sequence[Any]], progress: Callable[[int], None]
) -> int:
    written = 0
    batch = list[Sequence[Any]]()

    def flush(writer: pq.ParquetWriter) -> None:
        columns = [
            pa.array(column, field.type)
            for column, field in zip(zip(*batch, strict=True), schema, strict=True)
        ]
        writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
        batch.clear()

    with pq.ParquetWriter(path, schema) as writer:
        for row in rows:
            batch.append(row)
            if len(batch) == RAW_BATCH:
                flush(writer)
                written += RAW_BATCH
                progress(written)
        if batch:
            written += len(batch)
            flush(writer)
    progress(written)
    return written


def _build(
    directory: Path,
    inputs: list[dict[str, Any]],
    files: tuple[Path, Path | None],
    now_ms: int,
    strict: bool,
    memory_mb: int,
    progress: Callable[[int, int], None],
) -> None:
    """Write a whole stage into an empty directory."""
    events_path, items_path = files
    with (directory / "bad_lines.csv").open("w", encoding="utf-8", newline="") as report:
        table = csv.writer(report)
        table.writerow(("file", "line", "reason"))
        bad = BadLines(strict, lambda line: table.writerow((line.file, line.line, line.reason)))
        notes = [f"{events_path}: {recognise_events(events_path).note}"]
        log = read_events(events_path, now_ms, bad)
        events = directory / RAW_EVENTS
        count = _write_raw(events, EVENT_SCHEMA, log, lambda n: progress(n, bad.count))
        if not count:
            what = f"{bad.count} bad lines, the first: {bad.first[0]}" if bad.first else "no lines"
            raise ReplayError(
                f"{events_path} has no usable event ({what}); is this the right file?"
            )
        listed: Iterator[Listed] = iter(())
        repeats = False
        if items_path is not None:
            notes.append(f"{items_path}: {recognise_items(items_path).note}")
            listed, repeats = read_items(items_path, bad)
        rows = ((*entry.entry, entry.line) for entry in listed)
        catalogue = directory / RAW_ITEMS
        entries = _write_raw(catalogue, ITEM_SCHEMA, rows, lambda _: progress(count, bad.count))
        if items_path is not None and not entries:
            raise ReplayError(
                f"{items_path} has no usable item; give the right file, or none: then the items "
                "are those of the events"
            )
        notes += sort(directory, memory_mb, items_path, repeats, bad)
    items = count_rows(directory / ITEMS)
    first, last = time_range(directory / EVENTS)
    stage = {
        "schema_version": SCHEMA_VERSION,
        "inputs": inputs,
        "events": count,
        "items": items,
        "bad_lines": bad.count,
        "first_bad_lines": [str(line) for line in bad.first],
        "first_time_ms": first,
        "last_time_ms": last,
        "notes": notes,
    }
    (directory / STAGE).write_text(json.dumps(stage, indent=1) + "\n", encoding="utf-8")
    for path in directory.iterdir():
        sync_path(path)
    sync_path(directory)


def _staged(root: Path, files: list[Path]) -> tuple[Path, dict[str, Any]] | None:
    """What was staged of these files: of the same, untouched, or of some that are gone since."""
    gone = not all(path.exists() for path in files)
    wanted = [str(path.resolve()) for path in files] if gone else [_describe(p) for p in files]
    for directory, found in _stages(root):
        known = [
            i["path"] if gone else {k: v for k, v in i.items() if k != "sha256"}
            for i in found["inputs"]
        ]
        if known == wanted:
            return directory, found
    return None


def stage(
    events: Path,
    items: Path | None,
    data_dir: Path,
    now_ms: int,
    *,
    strict: bool = False,
    memory_mb: int = 512,
    progress: Callable[[int, int], None] = lambda events, bad_lines: None,
) -> StagedLog:
    """Put a log into the canonical order, unless that has been done for this content already.

    Files that are gone since they were staged are not needed any more.

    Args:
        events: the log.
        items: its catalogue, or None: the items are those of the events.
        data_dir: the pipeline's data directory.
        now_ms: today, in milliseconds; later events (by more than a year) are bad lines.
        strict: raise at the first bad line.
        memory_mb: memory of the sort, in MiB.
        progress: called now and then with the events read and the bad lines so far.

    Raises:
        ReplayError: if a file cannot be used, is not the log that was begun (see `BegunLog`), or
            the disk is full. Nothing is left half-written, and the log that was staged stays.
    """
    files = [events] if items is None else [events, items]
    root = data_dir / "replay"
    if staged := _staged(root, files):
        return _open(*staged, strict)
    described = [_describe(path) for path in files]
    inputs = [d | {"sha256": _sha256(path)} for d, path in zip(described, files, strict=True)]
    key = hashlib.sha256(
        json.dumps([SCHEMA_VERSION, *(i["sha256"] for i in inputs)]).encode()
    ).hexdigest()
    destination = root / f"log-{key[:16]}"
    for directory, found in _stages(root):
        if directory == destination:  # same content elsewhere, or touched
            return _open(directory, found, strict)
    begun = _begun(root)
    if begun is not None:
        begun.refuse_unlike(events, now_ms)
    partial = root / f"{PARTIAL}{destination.name}-{os.getpid()}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        for leftover in root.glob(f"{PARTIAL}*"):  # of a killed replay
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir()
        _build(partial, inputs, (events, items), now_ms, strict, memory_mb, progress)
        if begun is not None:
            begun.refuse_changed(partial, events, now_ms)
        for old in root.glob("log-*"):  # one log at a time; that one was superseded
            shutil.rmtree(old)
        partial.rename(destination)
        sync_path(root)
    except duckdb.Error as error:
        raise ReplayError(
            f"sorting {events} in {root} failed ({str(error).splitlines()[0]}); free disk space "
            f"there, or raise replay.sort_memory_mb (now {memory_mb})"
        ) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise ReplayError(f"no space left on the disk of {root}; free some") from error
        raise ReplayError(f"{root}: {error.strerror or error}; make it writable") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return _open(destination, json.loads((destination / STAGE).read_bytes()), strict)
