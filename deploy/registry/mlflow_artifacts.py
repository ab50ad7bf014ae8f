"""The artifacts of registered versions: brought back to disk, and deleted with their version."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from deploy.release.errors import RegistryError
from model.artifacts.manifest import MANIFEST, ManifestError, read_manifest, verify
from streaming.durable_files import PARTIAL, appear, make_folder, sync_tree


def bring_back(
    client: MlflowClient, model_name: str, mlflow_version: int, directory: Path, digest: str
) -> None:
    """Download the snapshot of a version as `directory`, which appears whole and verified.

    `digest` is what its manifest had when it was published: the registry's own word does not count.

    Raises:
        RegistryError: if the version holds no such snapshot, or an altered one.
        MlflowException, OSError: while the registry is out of reach.
    """
    version = client.get_model_version(model_name, str(mlflow_version))
    make_folder(directory.parent)
    with tempfile.TemporaryDirectory(prefix=f"{PARTIAL}fetched-", dir=directory.parent) as folder:
        got = Path(
            download_artifacts(
                artifact_uri=f"{_location(client, version.source)}/artifacts/{directory.name}",
                dst_path=folder,
                tracking_uri=client.tracking_uri,
            )
        )
        where = f"version {mlflow_version} of {model_name!r} in the registry"
        if not (got / MANIFEST).is_file():
            raise RegistryError(f"{where} holds no snapshot")
        try:
            if (found := read_manifest(got, "snapshot").digest) != digest:
                raise RegistryError(
                    f"{where} is not what was published as {directory.name}: its manifest has the "
                    f"digest {found[:12]}…, published was {digest[:12]}…; it was altered there and "
                    "is not served: choose another version (`sparc snapshots`), find out who can "
                    "write to the registry, and delete the altered one"
                )
            verify(got, "snapshot")
        except ManifestError as error:
            raise RegistryError(f"{where}: {error}") from error
        shutil.copytree(got, Path(folder) / "whole")
        sync_tree(Path(folder) / "whole")
        appear(Path(folder) / "whole", directory)


def retire(client: MlflowClient, model_name: str, mlflow_version: int) -> bool:
    """Delete a version, its logged model and their files; False where an alias names it.

    The version goes last: after a crash in between it is found and deleted again.

    Raises:
        MlflowException, OSError: while the registry is out of reach.
    """
    named = client.get_registered_model(model_name).aliases
    if str(mlflow_version) in {str(number) for number in named.values()}:
        return False
    try:
        version = client.get_model_version(model_name, str(mlflow_version))
    except MlflowException as error:
        if error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            return True
        raise
    try:
        location = _location(client, version.source)
        get_artifact_repository(location, tracking_uri=client.tracking_uri).delete_artifacts()
        client.delete_logged_model(_model_id(version.source))
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            raise
    client.delete_model_version(model_name, str(mlflow_version))
    return True


def _model_id(source: str | None) -> str:
    """The logged model of a version, whose source is `models:/<id>`."""
    return (source or "").removeprefix("models:/")


def _location(client: MlflowClient, source: str | None) -> str:
    """Where the artifacts of a version lie."""
    return str(client.get_logged_model(_model_id(source)).artifact_location)
