"""Items whose time is over are withdrawn, and forgotten when no version knows them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from indexer.indexing.config import IndexerConfig
from indexer.snapshots.snapshot_reading import versions
from model.retrieval.segment import Segment
from streaming.bounds import DAY_MS
from streaming.item_lifetime import ItemsConfig
from streaming.items import Item, Withdrawal
from tests.indexer.driving import announce, catch_up, items_of, running
from tests.indexer.stand_in import StandIn

NOW = 1000 * DAY_MS


class Clicked(StandIn):
    """Every other item was clicked lately, the others long ago."""

    def segment(self, rows: np.ndarray) -> Segment:
        days = np.where(rows % 2, 1, 40)
        return super().segment(rows)._replace(count_times_m=NOW - days * DAY_MS)


class Shop:
    """Takes tombstones as Kafka does; `away`: not."""

    def __init__(self) -> None:
        self.away = False
        self.told: list[list[int]] = []

    def withdraw(self, item_ids: np.ndarray, time_ms: int) -> bool:
        assert time_ms == NOW
        self.told.append(item_ids.tolist())
        return not self.away


@pytest.mark.parametrize("days", [-1.0, float("nan"), float("inf"), 1e300])
def test_days_that_make_no_sense_are_refused(days: float) -> None:
    with pytest.raises(ValueError, match=r"items\.ttl_days is .*leave it out"):
        ItemsConfig(ttl_days=days)
    with pytest.raises(ValueError, match=r"items\.grace_days is .*use 0 to 10000000"):
        ItemsConfig(grace_days=days)


@pytest.mark.parametrize("by", ["listing", "last_event"])
def test_what_has_lived_its_time_is_withdrawn_until_that_was_heard(tmp_path: Path, by: str) -> None:
    model, shop = Clicked.make(items=20), Shop()
    items = [
        Item(one.item_id, one.title, listed_at=NOW - (5 if n < 4 else 50) * DAY_MS)
        for n, one in enumerate(items_of(model))
    ]
    bare = [one.item_id for one in items[-2:]]  # were clicked, and never listed
    config = ItemsConfig(ttl_days=30, ttl_by=by)  # type: ignore[arg-type]
    with running(tmp_path, items=config, withdraw=shop.withdraw) as indexer:
        announce(indexer, items[:-2])
        for number in (1, 2):
            model.hand_over(tmp_path, number, {"0": 18}, event_time_range=[0, NOW])
            catch_up(indexer)
        ids = [one.item_id for one in items]
        silent = {i for n, i in enumerate(ids) if n % 2 == 0}
        old = set(ids[4:18])
        due = sorted((old if by == "listing" else old & silent) | (set(bare) & silent))
        assert shop.told == [due, due]
        announce(indexer, [Withdrawal(one) for one in due], NOW)
        model.hand_over(tmp_path, 3, {"0": 18}, event_time_range=[0, NOW])
        catch_up(indexer)
        assert len(shop.told) == 2
        assert not set(due) & set(indexer.served_version.snapshot.lists.item_ids_N.tolist())
        announce(indexer, [Item(due[0], "again", listed_at=NOW)])
        model.hand_over(tmp_path, 4, {"0": 18}, event_time_range=[0, NOW])
        catch_up(indexer)
        assert len(shop.told) == 2


def test_a_withdrawn_item_is_forgotten_when_no_version_knows_it(tmp_path: Path) -> None:
    model, config = StandIn.make(items=20), IndexerConfig(keep_versions=2)
    gone, young, unread, known = model.item_ids_N[:4].tolist()
    items = items_of(model)
    left = StandIn(model.item_ids_N[3:], model.vectors_ND[3:], model.centroids_CD)
    said = len(items) + 3
    with running(tmp_path, config, items=ItemsConfig(grace_days=1)) as indexer:
        announce(indexer, items)
        announce(indexer, [Withdrawal(gone), Withdrawal(known)], NOW - 2 * DAY_MS)
        announce(indexer, [Withdrawal(young)], NOW)
        announce(indexer, [Withdrawal(unread)], NOW - 2 * DAY_MS)
        for number in range(1, 6):
            (model if number < 3 else left).hand_over(
                tmp_path, number, {"0": said}, event_time_range=[0, NOW]
            )
            catch_up(indexer)
            there = set(indexer.store.withdrawn())
            assert there == set(indexer.listing.withdrawn) >= {young, unread, known}
            # a version that is kept might answer with it
            assert (gone in there) == (versions(tmp_path)[0] < 3)
    assert gone not in there
    with running(tmp_path, config) as indexer:
        assert set(indexer.store.withdrawn()) == {young, unread, known}
        announce(indexer, [Item(gone, "new", listed_at=NOW)])
        indexer.append_waiting()
        assert gone in indexer.served_version.snapshot.appended_items
