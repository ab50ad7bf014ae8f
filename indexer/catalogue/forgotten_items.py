"""Items that a version lists and nobody knows any more.

That an item is withdrawn is forgotten once no version on disk holds it (`indexer.indexing`). One
that is brought back from the registry may hold it still, and would answer with it. But what a
version lists has a row of properties for as long as it is listed, or known to be withdrawn; so what
has none was withdrawn, and forgotten.
"""

from __future__ import annotations

import numpy as np

from indexer.catalogue.property_reader import PropertyReader
from indexer.snapshots.pointer import positions
from indexer.snapshots.snapshot import Snapshot


def without_forgotten(snapshot: Snapshot, properties: PropertyReader) -> Snapshot:
    """The version without them; passes over its ids, as loading it does.

    It is left as it is where the properties do not cover all that it lists.
    """
    position = positions(snapshot.facts.position)
    columns = properties.covering(position) if position else None
    if columns is None:
        return snapshot
    listed = [part.ids_n[part.listed_n] for part in snapshot.items.parts]
    ids = np.concatenate([np.empty(0, np.int64), *listed])
    return snapshot.without(np.unique(ids[columns.rows_of(ids) < 0]))
