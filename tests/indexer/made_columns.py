"""Properties of items as files hold them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from indexer.catalogue.item_columns import ALWAYS, ATTRIBUTE

KINDS = {
    "string": pa.large_string(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "strings": pa.large_list(pa.large_string()),
    "time": pa.timestamp("ms"),
}


def batch_of(
    rows: Mapping[int, Mapping[str, Any]], kinds: Mapping[str, str] | None = None
) -> pa.RecordBatch:
    """A file's record batch of items by id: state, validity, category, and other attributes."""
    kinds = kinds or {}
    ids = sorted(rows)
    columns: dict[str, pa.Array] = {}
    for name, stored in ALWAYS:
        default: Any = {"state": 0, "category": ""}.get(name)
        values = [n if name == "item_id" else rows[n].get(name, default) for n in ids]
        columns[name] = pa.array(values, stored)
    for name, kind in kinds.items():
        stored = KINDS[kind]
        columns[ATTRIBUTE + name] = pa.array([rows[n].get(name) for n in ids], stored)
    return pa.RecordBatch.from_pydict(columns)
