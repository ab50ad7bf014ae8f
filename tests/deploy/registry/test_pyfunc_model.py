"""The registered model takes items as the shop calls them, and names them so."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd
import pytest
from mlflow.models import Model

from deploy.registry.mlflow_model import save_model
from indexer.search.config import SearchConfig
from indexer.search.query import Query
from indexer.search.retriever import Retriever
from indexer.snapshots.pointer import snapshot_path
from streaming.ids import numeric_id
from streaming.items import Item
from tests.deploy.snapshot_maker import Shelf
from tests.indexer.properties import tell


def saved(shelf: Shelf, folder: Path, told: Mapping[int, Item | None] | None = None) -> Any:
    """Version 1 as a model that was loaded again, with what is told of items."""
    properties = folder / "properties"
    properties.mkdir()
    if told is not None:
        tell(properties, told)
    snapshot = shelf.data_dir / snapshot_path(1)
    save_model(folder / "model", snapshot, Model(), SearchConfig(), properties)
    return mlflow.pyfunc.load_model(str(folder / "model"))


def test_texts_and_numbers_may_stand_side_by_side(shelf: Shelf, tmp_path: Path) -> None:
    shelf.publish(1)
    directory = shelf.data_dir / snapshot_path(1)
    model = saved(shelf, tmp_path)
    histories = [[1, 8], ["1", "8"], [" 1", 8, "B0X"], [1, 8, numeric_id("B0X")], []]
    found = model.predict(pd.DataFrame({"history": histories, "k": [9] * len(histories)}))
    first, second, third, fourth, prior = found["items"]
    assert first == second and third == fourth and first != prior
    retriever = Retriever.load(directory, SearchConfig())
    assert first == retriever.answer(Query([1, 8], k=9)).items
    assert found["external_ids"][0] == [f"B{item:09d}" for item in first]


def test_a_version_is_filtered_by_what_it_shows(shelf: Shelf, tmp_path: Path) -> None:
    shelf.publish(1)
    model = saved(shelf, tmp_path)
    kind = '{"must": {"key": "category", "match": {"value": "kind 3"}}}'
    asked = pd.DataFrame(
        {
            "history": [[], [], [3]],
            "filter": [kind, None, kind],
            "include_only": [None, [5, "6", "B0X"], None],
            "exclude": [[10], [6], None],
        }
    )
    found = [sorted(items) for items in model.predict(asked)["items"]]
    of_kind = list(range(3, 61, 7))
    assert found == [[i for i in of_kind if i != 10], [5], of_kind[1:]]


def test_it_has_the_states_and_attributes_that_it_was_registered_with(
    shelf: Shelf, tmp_path: Path
) -> None:
    shelf.publish(1)
    said: dict[int, Item | None] = {
        n: Item(n, category=f"kind {n % 7}", attributes={"price": float(n)}) for n in range(1, 61)
    }
    said |= {3: Item(3, state="hidden", attributes={"price": 3.0}), 4: None}
    model = saved(shelf, tmp_path, said)
    cheap = '{"must": {"key": "price", "range": {"lte": 6}}}'
    found = model.predict(
        pd.DataFrame({"history": [[], []], "filter": [cheap, None], "k": [60, 60]})
    )
    assert sorted(found["items"][0]) == [1, 2, 5, 6]
    assert sorted(found["items"][1]) == [n for n in range(1, 61) if n not in (3, 4)]


def test_what_is_no_item_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    shelf.publish(1)
    model = saved(shelf, tmp_path)
    for strange in (2.5, True):
        with pytest.raises(ValueError, match=f"{strange} is no item"):
            model.predict(pd.DataFrame({"history": [[1, strange]]}))
