"""The registered model takes items as the shop calls them, and names them so."""

from __future__ import annotations

from pathlib import Path

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
from tests.deploy.snapshot_maker import Shelf


def test_texts_and_numbers_may_stand_side_by_side(shelf: Shelf, tmp_path: Path) -> None:
    shelf.publish(1)
    directory = shelf.data_dir / snapshot_path(1)
    save_model(tmp_path / "model", directory, Model(), SearchConfig())
    model = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    histories = [[1, 8], ["1", "8"], [" 1", 8, "B0X"], [1, 8, numeric_id("B0X")], []]
    found = model.predict(pd.DataFrame({"history": histories, "k": [9] * len(histories)}))
    first, second, third, fourth, prior = found["items"]
    assert first == second and third == fourth and first != prior
    retriever = Retriever.load(directory, SearchConfig())
    assert first == retriever.answer(Query([1, 8], k=9)).items
    assert found["external_ids"][0] == [f"B{item:09d}" for item in first]


def test_a_version_is_filtered_by_what_it_shows(shelf: Shelf, tmp_path: Path) -> None:
    shelf.publish(1)
    directory = shelf.data_dir / snapshot_path(1)
    save_model(tmp_path / "model", directory, Model(), SearchConfig())
    model = mlflow.pyfunc.load_model(str(tmp_path / "model"))
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


def test_what_is_no_item_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    shelf.publish(1)
    save_model(tmp_path / "model", shelf.data_dir / snapshot_path(1), Model(), SearchConfig())
    model = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    for strange in (2.5, True):
        with pytest.raises(ValueError, match=f"{strange} is no item"):
            model.predict(pd.DataFrame({"history": [[1, strange]]}))
