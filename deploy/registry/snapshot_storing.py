"""The files of a snapshot go into the registry: linked where its store is on this disk, else sent.

A version in the registry is complete by itself. Where MLflow keeps its artifacts in a directory of
this machine (that of `sparc up`, or a store without a server), its files are hard links to the
snapshot's, so that a version of a large catalogue takes neither time nor room. Whether it does is
seen by what was just logged: the model's description must lie there, byte for byte.

The properties of the items as they are then go beside it, in the form of the data directory, linked
as well: what may be answered and filtered belongs to no version, but a model that is loaded
elsewhere has nobody to ask.

What is linked is made read-only first: a reader has these files mapped into memory, and who is not
root cannot write to them through either name. A file that cannot be made so, as it is another
user's, or on a file system that is mounted read-only, is copied.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from mlflow.tracking import MlflowClient

from indexer.catalogue.property_chain import POINTER, damage, read_pointer, write_pointer
from indexer.catalogue.property_reader import TRIES
from indexer.errors import SnapshotError
from model.artifacts.chain import link
from model.artifacts.manifest import MANIFEST, Manifest
from streaming.durable_files import PARTIAL

OWN_STORE = "mlflow/artifacts"
"""Where the server of `sparc up` keeps artifacts, in the data directory."""
DESCRIPTION = "MLmodel"
READ_ONLY = 0o444


def store_of(
    client: MlflowClient, model_id: str, logged: Path, own_store: Path | None
) -> Path | None:
    """Where on this disk the artifacts of a logged model lie; None where they are elsewhere.

    Args:
        client: of the registry.
        model_id: of the model, whose description has been logged.
        logged: the description as it was logged.
        own_store: where a server that proxies artifacts may keep them on this disk.

    Raises:
        MlflowException: if the registry does not say.
    """
    location = str(client.get_logged_model(model_id).artifact_location)
    store = _on_this_disk(location, own_store)
    return store if store is not None and _same(store / DESCRIPTION, logged) else None


def store_snapshot(
    client: MlflowClient,
    model_id: str,
    directory: Path,
    manifest: Manifest,
    folder: str,
    store: Path | None,
) -> None:
    """Put a snapshot's files into the folder of a logged model; what is there is replaced.

    Args:
        client: of the registry.
        model_id: of the model.
        directory: the verified snapshot.
        manifest: of it.
        folder: where it goes, relative to the model's artifacts.
        store: as `store_of` says.

    Raises:
        MlflowException, OSError: if it cannot be stored.
    """
    if store is None:
        client.log_model_artifacts(model_id, str(directory), folder)
    else:
        _link_all(directory, (*manifest.files, MANIFEST), store / folder)


def store_properties(
    client: MlflowClient,
    model_id: str,
    data_dir: Path,
    folder: str,
    store: Path | None,
    spare: Path,
) -> None:
    """Put the properties of a data directory's items into a folder; as `store_snapshot`.

    Args:
        client: of the registry.
        model_id: of the model.
        data_dir: holds them; where none were written yet, nothing is stored.
        folder: where they go, relative to the model's artifacts.
        store: as `store_of` says.
        spare: an empty directory, for what is sent.

    Raises:
        MlflowException, OSError: if they cannot be stored.
        SnapshotError: if they are damaged.
    """
    for _ in range(TRIES):
        pointer = read_pointer(data_dir)
        if pointer is None:
            return
        target = spare if store is None else store / folder
        try:
            names = [one.file for one in pointer.files]
            if store is not None:
                _link_all(data_dir, names, target)
            else:
                for name in names:
                    (target / name).parent.mkdir(exist_ok=True)
                    shutil.copyfile(data_dir / name, target / name)
        except FileNotFoundError:  # others are named meanwhile
            continue
        write_pointer(target, pointer)
        if store is None:
            client.log_model_artifacts(model_id, str(target), folder)
        return
    raise SnapshotError(damage(data_dir / POINTER, "a file that it names is missing"))


def _link_all(directory: Path, names: Iterable[str], target: Path) -> None:
    """Files under other names, each in the place of what is there."""
    for name in names:
        source, destination = directory / name, target / name
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
    except FileNotFoundError:
        raise
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
