from __future__ import annotations

import dataclasses

import numpy as np
import torch

from model.learning.item_tables import ItemTables
from model.network.item_tower import ItemTower
from model.network.sparc_config import SparcConfig
from streaming.items import Item
from tests.model.synthetic_stream import make_items


def test_what_is_learnt_of_a_whole_catalogue_follows_its_titles() -> None:
    model = SparcConfig()
    tables = ItemTables(model, 0, 10, 10, torch.device("cpu"))
    tower = ItemTower(model.item_tower, model.members)
    items = make_items(6)

    def same() -> bool:
        rows = np.arange(len(tables))
        learnt, seen = tables.inputs_to_learn(rows), tables.inputs(rows)
        return torch.allclose(tower(learnt), tower(seen), atol=1e-6)

    tables.list_items(items[:5])
    assert same() and same()
    listed_anew = dataclasses.replace(items[1], title="another name", category="of another kind")
    tables.list_items([listed_anew, items[5]])
    assert same()
    tables.list_items([Item(items[0].item_id)])
    assert same()
