"""What changed between two snapshots, from their manifests and tables: no model is loaded.

Shapes: C first-level codes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from indexer.snapshots.snapshot import ITEMS
from indexer.snapshots.snapshot_facts import SnapshotFacts

SHOWN = 5
_UNFIT = re.compile(r"[^A-Za-z0-9_\-. :/]")
"""MLflow takes letters, digits and these in a metric's name."""


@dataclass(frozen=True)
class Changes:
    """Differences of the catalogue between an earlier and a later snapshot.

    Attributes:
        items: items in both.
        new_items: items in the later one alone.
        removed_items: items in the earlier one alone.
        moved_items: items in both whose first-level code differs.
        moves: the most frequent moves (from code, to code, items), most frequent first.
        examples: some moved items: (title or external id, from code, to code), the most clicked
            first.
    """

    items: int
    new_items: int
    removed_items: int
    moved_items: int
    moves: list[tuple[int, int, int]]
    examples: list[tuple[str, int, int]]

    @property
    def moved_share(self) -> float:
        """Moved items of all that are in both."""
        return self.moved_items / self.items if self.items else 0.0

    def lines(self) -> list[str]:
        """Markdown for a description."""
        found = [
            f"- items new: {self.new_items:,}"
            + (f", gone: {self.removed_items:,}" if self.removed_items else ""),
            f"- items that changed code: {self.moved_items:,} ({self.moved_share:.1%})",
        ]
        if self.moves:
            moves = ", ".join(f"{a} → {b}: {n}" for a, b, n in self.moves[:SHOWN])
            found.append(f"- most frequent moves: {moves}")
        for title, before, after in self.examples[:3]:
            found.append(f"  - {title}: code {before} → {after}")
        return found


def metric_name(name: str) -> str:
    """The name under which MLflow takes a metric."""
    return _UNFIT.sub("_", name)


def metrics_of(facts: SnapshotFacts) -> dict[str, float]:
    """Finite numbers among the snapshot's metrics and counts, by MLflow-fit names."""
    numbers: dict[str, Any] = facts.metrics | {
        "catalogue_items": facts.catalogue_items,
        "indexed_items": facts.indexed_items,
        "codebook_generation": facts.codebook_generation,
        "rebuilt_codes": None if facts.rebuilt_codes is None else len(facts.rebuilt_codes),
    }
    return {
        metric_name(name): float(value)
        for name, value in numbers.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    }


def first_codes(table: pa.Table) -> NDArray[np.int64]:
    """The first-level code of each row of an items table."""
    column = table["codes"].combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    starts = column.offsets.to_numpy()[:-1]
    return column.values.to_numpy()[starts].astype(np.int64)


def changes(before: Path, after: Path) -> Changes:
    """Compare two snapshot directories whose digests were verified.

    Raises:
        OSError: if a table is missing or unreadable.
    """
    columns = ["item_id", "codes", "events", "title", "external_id"]
    try:
        earlier, later = (pq.read_table(path / ITEMS, columns=columns) for path in (before, after))
    except pa.ArrowException as error:
        raise OSError(f"{before} or {after}: {error}") from error
    ids_a, ids_b = (t["item_id"].to_numpy() for t in (earlier, later))
    codes_a, codes_b = first_codes(earlier), first_codes(later)
    _, at_a, at_b = np.intersect1d(ids_a, ids_b, assume_unique=True, return_indices=True)
    old, new = codes_a[at_a], codes_b[at_b]
    moved = np.flatnonzero(old != new)
    pairs, counts = np.unique(np.stack([old[moved], new[moved]]), axis=1, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:SHOWN]
    events = later["events"].to_numpy()[at_b][moved]
    shown = moved[np.argsort(-events, kind="stable")[:SHOWN]]
    rows = later.take(pa.array(at_b[shown])).to_pylist()
    return Changes(
        items=len(at_a),
        new_items=len(ids_b) - len(at_b),
        removed_items=len(ids_a) - len(at_a),
        moved_items=len(moved),
        moves=[(int(pairs[0, i]), int(pairs[1, i]), int(counts[i])) for i in order],
        examples=_examples(rows, old[shown].tolist(), new[shown].tolist()),
    )


def _examples(
    rows: Sequence[dict[str, str]], old: Sequence[int], new: Sequence[int]
) -> list[tuple[str, int, int]]:
    return [
        (row["title"] or row["external_id"] or str(row["item_id"]), a, b)
        for row, a, b in zip(rows, old, new, strict=True)
    ]
