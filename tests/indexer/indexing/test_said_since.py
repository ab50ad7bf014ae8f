"""What a version shows of the items, read from the store a piece at a time."""

from __future__ import annotations

import indexer.indexing.said_since as said_since
from streaming.items import Item
from tests.indexer.driving import announce, running
from tests.indexer.stand_in import StandIn


def test_no_item_is_lost_between_two_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(said_since, "CHUNK", 3)
    model = StandIn.make(4)
    with running(tmp_path) as indexer:
        ids = [int(i) for i in model.item_ids_N] + [90_000 + n for n in range(7)]
        announce(indexer, [Item(i, f"title {i}", "", "", 1) for i in ids])
        to_place, shown = said_since.everything(indexer.store, model, {})
    assert shown.ids_n.tolist() == sorted(ids)
    assert [one.item.item_id for one in to_place] == sorted(ids)[4:]
