"""The registered model as MLflow runs it: the service's answers, from a data frame.

MLflow stores this file as it is ("models from code") beside the snapshot directory and runs it
when `mlflow.pyfunc.load_model` loads a version, in a Python with the project installed. Nothing is
pickled. The snapshot's digests are verified before any of it is parsed.

Input columns: `history` (items as the shop calls them, texts or numbers, oldest first), and
optionally `history_times` (ms, as many), `now_ms`, `k`, `codes`, `exclude_seen`, `exclude` and
`include_only` (items, as `history`), and `filter` (JSON text). Attributes, states and the times at
which items are available are those of when the version was registered; the service follows them.
Output columns:
`items` (numbers, best first), `external_ids` (what the shop calls them, texts; of one that was
clicked and never listed the number), `scores`, `codes` (first-level code of each item),
`code_probabilities` and `propensities` (1 for what was ranked, less for what was drawn); a row per
input row.

    model = mlflow.pyfunc.load_model("models:/sparc@champion")
    model.predict(pd.DataFrame({"history": [[11, 12]], "k": [10]}))
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import mlflow.models
import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext
from pydantic import TypeAdapter

ARTIFACT = "snapshot"
PROPERTIES = "properties"
OUTPUT = ("items", "external_ids", "scores", "codes", "code_probabilities", "propensities")
"""Columns of an answer."""


def input_example() -> pd.DataFrame:
    """Two users: one with a history, one without."""
    return pd.DataFrame(
        {
            "history": [[1, 2, 3], []],
            "history_times": [[1_400_000_000_000, 1_400_000_060_000, 1_400_000_120_000], []],
            "now_ms": [1_400_000_180_000, 1_400_000_180_000],
            "k": [10, 10],
        }
    )


class SnapshotModel(PythonModel):
    """Answers from one snapshot, row by row, exactly as the retrieval service does."""

    def load_context(self, context: PythonModelContext) -> None:
        """Verify and load the snapshot.

        Raises:
            SnapshotError: if a file of the snapshot or of the properties is missing or altered.
        """
        # Late, because MLflow also runs this file where a model is only registered.
        from indexer.catalogue.property_reader import read_columns
        from indexer.search.config import SearchConfig
        from indexer.search.retriever import Retriever

        given = (context.model_config or {}).get("search", {})
        search = TypeAdapter(SearchConfig).validate_python(given)
        state = Retriever.load(Path(context.artifacts[ARTIFACT]), search)
        if columns := read_columns(Path(context.artifacts[PROPERTIES])):
            state = state.with_columns(columns)
        self._state = state

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Answer each row; see the module for the columns."""
        from indexer.catalogue.filter import Filter
        from indexer.search.query import Query

        rows = []
        for row in model_input.to_dict("records"):
            given = {name: value for name, value in row.items() if _present(value)}
            query = Query(
                _numbers(given["history"]),
                [int(t) for t in given["history_times"]] if "history_times" in given else None,
                now_ms=int(given["now_ms"]) if "now_ms" in given else None,
                k=int(given.get("k", Query.k)),
                codes=int(given["codes"]) if "codes" in given else None,
                exclude_seen=bool(given.get("exclude_seen", True)),
                exclude=_numbers(given.get("exclude", ())),
                filter=Filter.parse(json.loads(given["filter"])) if "filter" in given else None,
                include_only=_numbers(given["include_only"]) if "include_only" in given else None,
            )
            answer = self._state.answer(query)
            texts = [text["external_id"] for text in self._state.titles(answer.items)]
            found = vars(answer) | {"external_ids": texts}
            rows.append(tuple(found[name] for name in OUTPUT))
        return pd.DataFrame(rows, columns=list(OUTPUT))


def _numbers(items: Iterable[Any]) -> list[int]:
    from deploy.http.shop_ids import number_of

    found = [(item, number_of(item)) for item in items]
    for item, number in found:
        if isinstance(number, bool) or int(number) != number:
            raise ValueError(f"{item!r} is no item: use its text, or its number")
    return [int(number) for _, number in found]


def _present(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and value != value)


mlflow.models.set_model(SnapshotModel())
