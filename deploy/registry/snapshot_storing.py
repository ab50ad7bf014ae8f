"""The files of a snapshot go into the registry: linked where its store is on this disk, else sent.

A version in the registry is complete by itself. Where MLflow keeps its artifacts in a directory of
this machine (that of `sparc up`, or a store without a server), its files are hard links to the
snapshot's, so that a version of a large catalogue takes neither time nor room. Whether it does is
seen by what was just logged: the model's description must lie there, byte for byte.

What is linked is made read-only first: a reader has these files mapped into memory, and who is not
root cannot write to them through either name. A file that cannot be made so, as it is another
user's, or on a file system that is mounted read-only, is copied.
"""

from __future__ import annotations

import shutil
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from mlflow.tracking import MlflowClient

from model.artifacts.chain import link
from model.artifacts.manifest import MANIFEST, Manifest
from streaming.durable_files import PARTIAL

OWN_STORE = "mlflow/artifacts"
"""Where the server of `sparc up` keeps artifacts, in the data directory."""
DESCRIPTION = "MLmodel"
READ_ONLY = 0o444


def store_snapshot(
    client: MlflowClient,
    model_id: str,
    directory: Path,
    manifest: Manifest,
    folder: str,
    logged: Path,
    own_store: Path | None,
) -> None:
    """Put a snapshot's files into the folder of a logged model; what is there is replaced.

    Args:
        client: of the registry.
        model_id: of the model, whose description has been logged.
        directory: the verified snapshot.
        manifest: of it.
        folder: where it goes, relative to the model's artifacts.
        logged: the description as it was logged.
        own_store: where a server that proxies artifacts may keep them on this disk.

    Raises:
        MlflowException, OSError: if it cannot be stored.
    """
    location = str(client.get_logged_model(model_id).artifact_location)
    store = _on_this_disk(location, own_store)
    if store is None or not _same(store / DESCRIPTION, logged):
        client.log_model_artifacts(model_id, str(directory), folder)
        return
    for name in (*manifest.files, MANIFEST):
        source, destination = directory / name, store / folder / name
        destination.parent.mkdir(parents=True, exist_ok=True)
        partial = destination.with_name(f"{PARTIAL}{destination.name}")
        partial.unlink(missing_ok=True)
        if _made_read_only(source):
            link(source, partial)
        else:
            shutil.copyfile(source, partial)
        partial.replace(destination)


def _made_read_only(path: Path) -> bool:
    """Make a file read-only; False where that is not ours to do."""
    try:
        path.chmod(READ_ONLY)
    except OSError:
        return False
    return True


def _on_this_disk(location: str, own_store: Path | None) -> Path | None:
    """The directory that a location may be, where it is one of this machine."""
    parts = urlsplit(location)
    if parts.scheme in ("", "file"):
        return Path(unquote(parts.path) if parts.scheme else location)
    if parts.scheme != "mlflow-artifacts" or own_store is None:
        return None
    inside = PurePosixPath(parts.path.lstrip("/"))
    if ".." in inside.parts:
        return None
    return own_store / inside


def _same(path: Path, other: Path) -> bool:
    try:
        return path.read_bytes() == other.read_bytes()
    except OSError:
        return False
