"""A snapshot in the form of an MLflow model: pyfunc from code, with signature and input example.

MLflow copies the code of `deploy/registry/pyfunc_model.py` and the snapshot directory; nothing is
pickled.
"""

from __future__ import annotations

import importlib.metadata
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlflow.pyfunc
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import AnyType, Array

from deploy.registry import pyfunc_model
from deploy.registry.pyfunc_model import ARTIFACT, PROPERTIES, input_example
from indexer.search.config import SearchConfig

_REQUIREMENTS = (
    "mlflow",
    "numpy",
    "pandas",
    "pyarrow",
    "torch",
    "safetensors",
    "sparc-stream",
)


def save_model(
    path: Path, snapshot: Path, mlflow_model: Model, search: SearchConfig, properties: Path
) -> None:
    """Write a snapshot directory as an MLflow pyfunc model.

    Args:
        path: where to.
        snapshot: the directory.
        mlflow_model: what MLflow says of it.
        search: how it is searched.
        properties: of the items: a directory that has them as a data directory does, or none.
    """
    mlflow.pyfunc.save_model(
        path=str(path),
        python_model=pyfunc_model.__file__,
        # As a URI: MLflow decodes a plain path, too.
        artifacts={
            ARTIFACT: snapshot.absolute().as_uri(),
            PROPERTIES: properties.absolute().as_uri(),
        },
        signature=signature(),
        input_example=input_example(),
        # Given, because MLflow would otherwise load the model in a new process to infer them.
        pip_requirements=_requirements(),
        model_config={"search": asdict(search)},
        mlflow_model=mlflow_model,
    )


def _requirements() -> list[str]:
    """The versions in use; a checkout that is not installed has none of its own."""
    pinned = []
    for name in _REQUIREMENTS:
        try:
            pinned.append(f"{name}=={importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return pinned


def signature() -> ModelSignature:
    """Columns that the pyfunc model takes and returns; all but `history` may be left out."""

    def column(kind: Any, name: str, required: bool = False) -> ColSpec:
        return ColSpec(kind, name, required=required)

    integers, numbers = Array(DataType.long), Array(DataType.double)
    items = Array(AnyType())  # texts, numbers, or both
    return ModelSignature(
        inputs=Schema(
            [
                column(items, "history", required=True),
                column(integers, "history_times"),
                column(DataType.long, "now_ms"),
                column(DataType.long, "k"),
                column(DataType.long, "codes"),
                column(DataType.boolean, "exclude_seen"),
                column(items, "exclude"),
                column(items, "include_only"),
                column(DataType.string, "filter"),
            ]
        ),
        outputs=Schema(
            [
                column(integers, "items", required=True),
                column(Array(DataType.string), "external_ids", required=True),
                column(numbers, "scores", required=True),
                column(integers, "codes", required=True),
                column(numbers, "code_probabilities", required=True),
                column(numbers, "propensities", required=True),
            ]
        ),
    )
