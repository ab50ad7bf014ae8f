"""`withdrawn.json`: the items that must not be answered, whatever a version holds.

    {"items": [7, 12, ...]}

The indexer replaces the file in one step whenever `items` says so. It lies beside the versions and
belongs to none of them: an older version that is served again, by a rollback or a restart, knows
nothing of what was withdrawn after it, so whoever answers from a version takes these out of it.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray

from indexer.errors import SnapshotError
from streaming.durable_files import write_atomically

WITHDRAWN = "withdrawn.json"
NONE = np.empty(0, np.int64)


def read_withdrawn(data_dir: Path) -> NDArray[np.int64]:
    """Ids of the withdrawn items, ascending; none before the first.

    Raises:
        SnapshotError: if the file is damaged.
    """
    path = data_dir / WITHDRAWN
    try:
        ids = orjson.loads(path.read_bytes())["items"]
        if not isinstance(ids, list) or not {int}.issuperset(map(type, ids)):
            raise ValueError("no list of integers")
        return np.unique(np.array(ids, np.int64))
    except FileNotFoundError:
        return NONE
    except (ValueError, KeyError, TypeError, OverflowError, OSError) as error:
        raise SnapshotError(
            f"{path}: damaged ({error}); restart the indexer, which writes it anew"
        ) from error


def write_withdrawn(data_dir: Path, item_ids: Collection[int]) -> None:
    """Replace the file.

    Raises:
        OSError: if it cannot be written; the one before stays.
    """
    body = orjson.dumps({"items": sorted(item_ids)})
    path = data_dir / WITHDRAWN
    if item_ids or path.exists():
        write_atomically(path, body)
