"""The properties of items by what a version shows of them: their categories.

So a version that stands alone, a registered one say, can be filtered by category.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from indexer.catalogue.item_columns import ALWAYS, LISTED, WITHDRAWN, ItemColumns
from indexer.snapshots.item_table import ItemTable


def shown_columns(table: ItemTable) -> ItemColumns:
    """Columns without attributes, of the table of a version."""
    return ItemColumns.of(
        _batch(part.ids_n, part.listed_n, part.batch.column("category")) for part in table.parts
    )


def _batch(
    ids_n: NDArray[np.int64], listed_n: NDArray[np.bool_], categories_n: pa.Array
) -> pa.RecordBatch:
    n = len(ids_n)
    states_n = np.where(listed_n, LISTED, WITHDRAWN).astype(np.int8)
    always = pa.nulls(n, pa.int64())
    columns = [pa.array(ids_n), pa.array(states_n), always, always, categories_n]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(ALWAYS))
