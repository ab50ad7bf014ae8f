"""What has lived its time (`items.ttl_days`, its time to live) is withdrawn; later it is forgotten.

Both are looked at when a version is served, by the clock of the newest event that it has learnt. An
item whose time is over is withdrawn by a tombstone on `items`, as by anybody: so all that read the
topic hear of it, and it is enough to rebuild everything. What was decided is noted nowhere: until a
tombstone has been read back, the next version decides the same again, and a second one changes
nothing.

That an item is withdrawn is known for as long as any version might answer with it: until its grace
is over, the trainer has read the tombstone and the model does not know the item any more, nor does
any version that is kept. Then the indexer does not know it either.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import structlog
from numpy.typing import NDArray

from indexer.indexing.item_store import ItemStore
from indexer.indexing.listing import Listing
from indexer.snapshots.snapshot import Snapshot
from streaming.item_lifetime import ItemsConfig

log = structlog.get_logger(__name__)

Ids = NDArray[np.int64]
Withdraw = Callable[[Ids, int], bool]
"""Writes tombstones of items with a time in ms; whether Kafka has them."""
MOST = 100_000
"""Items withdrawn at once; the others with the next version."""


class Lifetimes:
    """Tends what the indexer knows of items.

    Args:
        config: how long items live.
        store: what is known, on disk.
        listing: what is known, at hand.
        withdraw: writes tombstones.
    """

    def __init__(
        self, config: ItemsConfig, store: ItemStore, listing: Listing, withdraw: Withdraw
    ) -> None:
        self._config = config
        self._store = store
        self._listing = listing
        self._withdraw = withdraw
        # item -> the first version that does not know it, and where the tombstone stands
        self._unknown_since: dict[int, tuple[int, tuple[int, int]]] = {}

    def tend(self, snapshot: Snapshot, oldest: int) -> None:
        """Forget and withdraw what is due.

        Args:
            snapshot: the version that was just published, as it is served.
            oldest: the oldest version that is kept.
        """
        if not (times := snapshot.facts.event_time_range):
            return
        self._forget(snapshot, max(times), oldest)
        if self._config.ttl_ms is not None:
            ids = expired(snapshot, max(times) - self._config.ttl_ms, self._config)
            listing = self._listing
            ids = ids[~np.isin(ids, np.fromiter(listing.withdrawn, np.int64))][:MOST]
            if len(ids) and self._withdraw(ids, max(times)):
                log.info("items withdrawn: they have lived their time", items=len(ids))

    def _forget(self, snapshot: Snapshot, clock_ms: int, oldest: int) -> None:
        withdrawn = np.array(sorted(self._listing.withdrawn), np.int64)
        learnt = snapshot.facts.learnt_to("items")
        unknown, due = {}, []
        for item_id in withdrawn[snapshot.model.items.rows(withdrawn) < 0].tolist():
            since, place = self._store.withdrawn_at(item_id)
            if since > clock_ms - self._config.grace_ms or place[1] >= learnt.get(place[0], 0):
                continue
            version, where = self._unknown_since.get(item_id, (snapshot.version, place))
            unknown[item_id] = (version if where == place else snapshot.version, place)
            if unknown[item_id][0] <= oldest:
                due.append(item_id)
        self._unknown_since = {i: seen for i, seen in unknown.items() if seen[0] > oldest}
        if due:
            self._store.forget_withdrawn(due)
            self._listing.withdrawn.difference_update(due)
            log.info("withdrawn items forgotten", items=len(due))


def expired(snapshot: Snapshot, until_ms: int, config: ItemsConfig) -> Ids:
    """Ids, ascending, of the items whose time was over then; passes over the catalogue's columns.

    Args:
        snapshot: a version as it is served.
        until_ms: what was listed, or had its last event, no later.
        config: by which of the two.
    """
    items, counts = snapshot.model.items, snapshot.model.items.counts
    ids = snapshot.items.listed_until(until_ms)
    if config.ttl_by == "last_event":
        ids = ids[counts.times(items.rows(ids)) <= until_ms]
    silent = items.ids_N[counts.rows_e[(counts.times_e <= until_ms) & (counts.events_e > 0)]]
    return np.union1d(ids, silent[snapshot.items.find(silent)[0] < 0])
