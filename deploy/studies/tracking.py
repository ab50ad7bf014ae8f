"""Runs of the evaluation in MLflow: parameters, metrics, weekly curves, plots.

A run of the evaluation is worth more than its record: whatever goes wrong with MLflow is a warning
in the log, and the files in the run's directory stay the truth.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import structlog

from deploy.settings import Settings
from streaming.bounds import DAY_MS
from streaming.secret import cleaned

logger = structlog.get_logger(__name__)

DATABASE = "mlflow.db"
ARTIFACTS = "mlflow-artifacts"
MOST_TEXT = 500
"""Characters of a parameter; MLflow takes no more."""


def address(settings: Settings, given: str | None, out: Path) -> str:
    """Where runs are logged: as given, as configured, or a database in the output directory."""
    registry = settings.registry
    if registry.tracking_uri and not settings.evaluation.tracking_uri and not given:
        return registry.let_in(registry.tracking_uri)
    configured = settings.evaluation.tracking_uri
    return given or configured or database_uri(out)


def database_uri(out: Path) -> str:
    """Of the database in a directory.

    SQLAlchemy decodes the path; MLflow does not where it makes the directory, but only if the URI
    begins with `sqlite:///`.
    """
    plain = str((out / DATABASE).resolve())
    return f"sqlite:///{plain}" if plain == quote(plain) else f"sqlite+pysqlite:///{quote(plain)}"


def log_run(
    report: Mapping[str, Any], directory: Path, uri: str, experiment: str, tags: Mapping[str, str]
) -> str | None:
    """Log a run and the plots that lie in its directory.

    Returns:
        MLflow's id of the run; None, with a warning, if it could not be logged.
    """
    for name, value in (
        ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1"),
        ("MLFLOW_HTTP_REQUEST_TIMEOUT", "30"),
        ("MLFLOW_DISABLE_TELEMETRY", "true"),
        ("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false"),
        ("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true"),
    ):
        os.environ.setdefault(name, value)
    try:
        return _log(report, directory, uri, experiment, tags)
    except Exception as error:  # noqa: BLE001 - a record must never cost a run
        logger.warning("not logged to MLflow", name=report["name"], reason=cleaned(str(error)))
        return None


def _log(
    report: Mapping[str, Any], directory: Path, uri: str, experiment: str, tags: Mapping[str, str]
) -> str:
    import mlflow
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param
    from sqlalchemy import make_url

    mlflow.set_tracking_uri(uri)
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    if found is not None:
        experiment_id = found.experiment_id
    else:
        place = None
        if uri.startswith("sqlite"):
            database = Path(make_url(uri).database or DATABASE)
            place = (database.absolute().parent / ARTIFACTS).as_uri()
        experiment_id = client.create_experiment(experiment, artifact_location=place)
    named = f"{report['name']}, seed {report.get('seed', 0)}"
    run_id = str(client.create_run(experiment_id, run_name=named, tags=dict(tags)).info.run_id)
    now_ms = time.time_ns() // 1_000_000
    params = [Param(name, value) for name, value in _flat(report.get("run", {}))]
    metrics = [
        Metric(_fit(name), float(value), now_ms, 0)
        for name, value in _numbers(report)
        if value is not None
    ]
    for name, curve in report.get("weekly", {}).items():
        metrics += [
            Metric(f"weekly/{_fit(name)}", week["value"], week["day"] * DAY_MS, step)
            for step, week in enumerate(curve)
        ]
    for start in range(0, len(params), 100):
        client.log_batch(run_id, params=params[start : start + 100])
    for start in range(0, len(metrics), 1000):
        client.log_batch(run_id, metrics=metrics[start : start + 1000])
    for path in sorted(directory.glob("*.png")) + sorted(directory.glob("*.json")):
        client.log_artifact(run_id, str(path))
    client.set_terminated(run_id)
    return run_id


def _fit(name: str) -> str:
    """A metric's name as MLflow takes it."""
    return name.replace("@", "_at_")


def _numbers(report: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    yield from report.get("metrics", {}).items()
    yield from report.get("test", {}).items()
    retrieval = report.get("retrieval", {})
    yield "retrieval/kept", retrieval.get("kept")
    yield "retrieval/share_scored", retrieval.get("share_scored")
    yield "retrieval/exhaustive_recall@50", retrieval.get("exhaustive", {}).get("recall@50")
    for name, way in report.get("ways", {}).items():
        yield f"ways/{name}/recall@50", way["metrics"]["recall@50"]
        yield f"ways/{name}/ndcg@50", way["metrics"]["ndcg@50"]
    for name, value in report.get("codebook", {}).get("means", {}).items():
        yield f"codebook/{name}", value
    yield "wall_seconds", report.get("wall_seconds")


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Leaves of nested settings as dotted names and texts."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _flat(part, f"{prefix}.{name}" if prefix else name)
    else:
        yield prefix, str(value)[:MOST_TEXT]
