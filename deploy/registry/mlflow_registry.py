"""The registered model in MLflow: one version per published snapshot, found again by its digest.

The order of a registration is fixed, so that a crash between any two steps is repaired by
running it again: (1) a version that carries the snapshot's digest as a tag ends it; (2) a logged
model, also tagged with the digest, is created or found, and gets its artifacts; (3) it is
finalized; (4) the metrics are logged to the run of the pipeline with a fixed step and time, which
MLflow stores once; (5) the version is created together with its tags. Where a slow server carried
out a request that the client had given up, the later of two versions with one digest is deleted.

The model is pyfunc from code (`deploy/registry/pyfunc_model.py`): MLflow neither pickles nor
unpickles.
"""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
import numpy as np
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, Metric, Param, RunTag
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.protos.databricks_pb2 import (
    INVALID_PARAMETER_VALUE,
    RESOURCE_ALREADY_EXISTS,
    RESOURCE_DOES_NOT_EXIST,
    ErrorCode,
)
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

from deploy.registry.mlflow_artifacts import bring_back, retire
from deploy.registry.mlflow_model import save_model
from deploy.registry.pyfunc_model import PROPERTIES
from deploy.registry.snapshot_storing import (
    DESCRIPTION,
    store_of,
    store_properties,
    store_snapshot,
)
from deploy.registry.version_plots import draw_plots
from deploy.release import version_metadata
from deploy.release.errors import RegistryError
from deploy.release.ledger import RegisteredVersion
from deploy.release.version_metadata import DIGEST_TAG, VERSION_TAG
from indexer.comparison.version_metrics import metrics_of
from indexer.search.config import SearchConfig
from indexer.snapshots.snapshot_facts import SnapshotFacts
from model.artifacts.manifest import Manifest
from streaming.temporary import temporary

PLOTS = "plots"
"""Folder of a version's artifacts with its pictures."""
PLOTTED = frozenset(
    {
        "recall_at_50",
        "window_recall_at_50",
        "long_tail_recall_at_50",
        "ndcg_at_50",
        "codes_in_use",
        "perplexity",
        "cosine",
        "publish_interval_seconds",
    }
)
PIPELINE_TAG = "pipeline"
REVISION_TAG = "code_revision"


def _refused(error: MlflowException, *codes: int) -> bool:
    return error.error_code in {ErrorCode.Name(code) for code in codes}


class Registry:
    """Registered model `model_name` at `tracking_uri`, and the run of one pipeline.

    Every method raises `MlflowException` or `OSError` while the registry is out of reach; all of
    them may then be called again.
    """

    def __init__(
        self,
        tracking_uri: str,
        model_name: str,
        experiment: str,
        pipeline: str,
        search: SearchConfig,
        revision: str = "",
        own_store: Path | None = None,
    ) -> None:
        self._revision = revision
        self._own_store = own_store
        self._tracking_uri = tracking_uri
        try:
            # Where there is no server in between, MLflow's stores ask for the address of the
            # process instead of the client's.
            mlflow.set_tracking_uri(tracking_uri)
            self._client = MlflowClient(tracking_uri, registry_uri=tracking_uri)
        except MlflowException as error:
            raise RegistryError(f"tracking URI {tracking_uri!r}: {error.message}") from error
        self._model_name = model_name
        self._experiment = experiment
        self._pipeline = pipeline
        self._search_config = search
        self._experiment_id: str | None = None
        self._run_id: str | None = None

    def open(self) -> str:
        """Find or create the registered model, the experiment and this pipeline's run.

        Returns:
            The id of the run, which is marked as running.
        """
        try:
            self._client.create_registered_model(
                self._model_name,
                description="Retrieval snapshots of SPARC-stream. `champion` is served, "
                "`challenger` is built but not judged, `previous` was champion before.",
            )
        except MlflowException as error:
            if not _refused(error, RESOURCE_ALREADY_EXISTS):
                raise
        self._experiment_id = self._find_or_create_experiment()
        runs = self._client.search_runs(
            [self._experiment_id], f"tags.`{PIPELINE_TAG}` = '{self._pipeline}'", max_results=1
        )
        if runs:
            self._run_id = runs[0].info.run_id
            self._client.update_run(self._run_id, status="RUNNING")
        else:
            run = self._client.create_run(
                self._experiment_id,
                tags={PIPELINE_TAG: self._pipeline},
                run_name=f"pipeline {self._pipeline[:8]}",
            )
            self._run_id = run.info.run_id
        return self._run_id

    def _find_or_create_experiment(self) -> str:
        found = self._client.get_experiment_by_name(self._experiment)
        if found is None:
            try:
                return self._client.create_experiment(self._experiment)
            except MlflowException as error:
                if not _refused(error, RESOURCE_ALREADY_EXISTS):
                    raise
                found = self._client.get_experiment_by_name(self._experiment)
        if found is None or found.lifecycle_stage != "active":
            # Somebody's decision, so nothing here undoes it.
            number = found.experiment_id if found else "ID"
            raise RegistryError(
                f"experiment {self._experiment!r} was deleted in MLflow; registration goes on once "
                f"it is restored: MLFLOW_TRACKING_URI={self._tracking_uri} mlflow experiments "
                f"restore --experiment-id {number}; or configure another one in [registry]"
            )
        return found.experiment_id

    def close(self) -> None:
        """Mark the pipeline's run as finished; `open` resumes it."""
        if self._run_id:
            self._client.set_terminated(self._run_id)

    def versions(self) -> dict[str, RegisteredVersion]:
        """Registered versions by digest; surplus versions of one digest are deleted."""
        return self._search(f"name = '{self._model_name}'")

    def _search(self, filter_string: str) -> dict[str, RegisteredVersion]:
        versions: list[ModelVersion] = []
        token: str | None = None
        while True:
            page = self._client.search_model_versions(
                filter_string, max_results=1000, page_token=token
            )
            versions += page
            token = page.token
            if not token:
                break
        found: dict[str, RegisteredVersion] = {}
        for version in sorted(versions, key=lambda version: int(version.version)):
            digest = version.tags.get(DIGEST_TAG)
            if not digest:
                continue  # somebody else's
            if digest in found:
                self._client.delete_model_version(self._model_name, version.version)
                continue
            number = version.tags.get(VERSION_TAG, "")
            if number.isdecimal():  # else somebody set the tag by hand
                found[digest] = RegisteredVersion(int(version.version), int(number), digest)
        return found

    def find(self, digest: str) -> RegisteredVersion | None:
        """The version of a snapshot with this digest, if it is registered."""
        return self._search(
            f"name = '{self._model_name}' and tags.`{DIGEST_TAG}` = '{digest}'"
        ).get(digest)

    def register(
        self, directory: Path, manifest: Manifest, parent: SnapshotFacts | None
    ) -> RegisteredVersion:
        """Register the snapshot in `directory`, unless a version carries its digest already.

        The properties of the items in its data directory, as they are now, go with it.
        `parent` are the facts of its parent where known, for the description of what changed;
        the parent's directory is looked for beside `directory`.
        """
        if (known := self.find(manifest.digest)) is not None:
            return known
        run_id = self._run_id or self.open()
        facts = SnapshotFacts.of(manifest)
        metrics = metrics_of(facts) | version_metadata.interval_of(directory, facts, parent)
        model_id = self._upload(directory, manifest, facts, run_id, metrics)
        self._log_metrics(facts, run_id, model_id, metrics)
        tags = version_metadata.tags_of(facts, manifest.digest)
        if self._revision:
            tags[REVISION_TAG] = self._revision
        self._client.create_model_version(
            self._model_name,
            f"models:/{model_id}",
            run_id=run_id,
            tags=tags,
            description=version_metadata.description_of(facts, parent),
            model_id=model_id,
        )
        registered = self.find(manifest.digest)
        if registered is None:
            raise RegistryError(
                f"the registry does not show the version it created for {directory}; is it being "
                "edited by hand?"
            )
        # What MLflow's own client writes too: the page of the logged model links to the version.
        link = {"name": self._model_name, "version": registered.mlflow_version}
        self._client.set_logged_model_tags(model_id, {MLFLOW_MODEL_VERSIONS: json.dumps([link])})
        return registered

    def _upload(
        self,
        directory: Path,
        manifest: Manifest,
        facts: SnapshotFacts,
        run_id: str,
        metrics: dict[str, float],
    ) -> str:
        """Log the snapshot as an MLflow model; returns the model's id."""
        assert self._experiment_id is not None  # noqa: S101 - set by open()
        left_over = self._client.search_logged_models(
            [self._experiment_id],
            filter_string=f"tags.`{DIGEST_TAG}` = '{manifest.digest}'",
            max_results=1,
        )
        if left_over and left_over[0].status == "READY":
            return str(left_over[0].model_id)
        logged = (
            left_over[0]
            if left_over
            else self._client.create_logged_model(
                self._experiment_id,
                name=f"snapshot-{facts.version:08d}",
                source_run_id=run_id,
                tags={DIGEST_TAG: manifest.digest},
                params={
                    key: str(value)
                    for key, value in facts.model.items()
                    if isinstance(value, (str, int, float, bool))
                },
                model_type="retrieval",
            )
        )
        with temporary("registrar") as folder:
            path = folder / "model"
            # Empty, as the files follow: MLflow would copy them twice, and, where an attempt before
            # this one broke off later, onto links to the published ones.
            outline, told, spare = (folder / name for name in (directory.name, PROPERTIES, "spare"))
            for one in (outline, told, spare):
                one.mkdir()
            save_model(
                path,
                outline,
                Model(
                    artifact_path=logged.artifact_location,
                    model_uuid=logged.model_id,
                    run_id=run_id,
                    model_id=logged.model_id,
                    metadata=version_metadata.tags_of(facts, manifest.digest),
                ),
                self._search_config,
                told,
            )
            draw_plots(
                path / PLOTS,
                facts,
                np.array(facts.sizes, np.int64),
                self._history(run_id, facts, metrics),
            )
            self._client.log_model_artifacts(logged.model_id, str(path))
            model_id = str(logged.model_id)
            store = store_of(self._client, model_id, path / DESCRIPTION, self._own_store)
            store_snapshot(
                self._client, model_id, directory, manifest, f"artifacts/{directory.name}", store
            )
            data_dir = directory.parent.parent
            store_properties(
                self._client, model_id, data_dir, f"artifacts/{PROPERTIES}", store, spare
            )
        self._client.finalize_logged_model(logged.model_id, "READY")
        return str(logged.model_id)

    def _history(
        self, run_id: str, facts: SnapshotFacts, metrics: dict[str, float]
    ) -> dict[str, list[tuple[int, float]]]:
        """The plotted metrics of the run until this version, by name: (event time in ms, value)."""
        until = version_metadata.time_of(facts)
        found = {}
        for name in PLOTTED & metrics.keys():
            points = {
                (one.step, one.timestamp): one.value
                for one in self._client.get_metric_history(run_id, name)
                if one.timestamp <= until
            }
            points[(version_metadata.step_of(facts), until)] = metrics[name]
            found[name] = [(time_ms, value) for (_, time_ms), value in sorted(points.items())]
        return found

    def _log_metrics(
        self, facts: SnapshotFacts, run_id: str, model_id: str, values: dict[str, float]
    ) -> None:
        step, time_ms = version_metadata.step_of(facts), version_metadata.time_of(facts)
        # A second value for the same step is refused, and one may differ: when the snapshot was
        # published is told by its directory, which may have been brought back since.
        known = {m.key for m in self._client.get_logged_model(model_id).metrics or ()}
        metrics = [
            Metric(name, value, time_ms, step, model_id=model_id)
            for name, value in values.items()
            if name not in known
        ]
        outputs = self._client.get_run(run_id).outputs
        if model_id not in {one.model_id for one in (outputs.model_outputs if outputs else ())}:
            self._client.log_outputs(run_id, [LoggedModelOutput(model_id, step)])
        self._client.log_batch(
            run_id,
            metrics=metrics,
            params=[Param("model_name", self._model_name)],
            tags=[RunTag(VERSION_TAG, str(facts.version))],
        )

    def log_live(self, metrics: dict[str, float], step: int, time_ms: int) -> None:
        """Add to the curves of the pipeline's run."""
        run_id = self._run_id or self.open()
        values = [Metric(name, value, time_ms, step) for name, value in metrics.items()]
        self._client.log_batch(run_id, metrics=values)

    def aliased(self, alias: str) -> int | None:
        """MLflow's number of the version that `alias` names, or None."""
        try:
            # Search results can lack aliases, so each is asked for.
            return int(self._client.get_model_version_by_alias(self._model_name, alias).version)
        except MlflowException as error:
            if _refused(error, RESOURCE_DOES_NOT_EXIST, INVALID_PARAMETER_VALUE):
                return None
            raise

    def set_alias(self, alias: str, mlflow_version: int | None) -> None:
        """Make `alias` name a version; with None it names nothing."""
        if mlflow_version is not None:
            self._client.set_registered_model_alias(self._model_name, alias, str(mlflow_version))
        elif self.aliased(alias) is not None:
            self._client.delete_registered_model_alias(self._model_name, alias)

    def tag(self, mlflow_version: int, tags: dict[str, str]) -> None:
        """Set tags of a version; one that was deleted is left alone."""
        for key, value in tags.items():
            try:
                self._client.set_model_version_tag(
                    self._model_name, str(mlflow_version), key, value
                )
            except MlflowException as error:
                if not _refused(error, RESOURCE_DOES_NOT_EXIST):
                    raise
                return

    def download(self, mlflow_version: int, directory: Path, digest: str) -> None:
        """Bring the snapshot of a version back as `directory`, if its manifest has this digest."""
        bring_back(self._client, self._model_name, mlflow_version, directory, digest)

    def retire(self, mlflow_version: int) -> bool:
        """Delete a version with its artifacts, unless an alias names it; whether it is gone."""
        return retire(self._client, self._model_name, mlflow_version)
