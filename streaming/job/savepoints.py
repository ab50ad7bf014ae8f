"""The states that a job can go on from: checkpoints and savepoints in a directory.

Local directories are looked into, and those of S3, Google Cloud Storage and HDFS, with the
credentials that pyarrow finds (environment, instance role).

The URI of a local directory is written as Flink reads it: `file://` and the path as it is, with
nothing percent-encoded. A state's number is that of its checkpoint. Numbers grow from one state of
a job to the next, also over restarts, and unlike the times of files they do so whatever the clock
is set to.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from streaming.errors import StreamingError

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem

SAVEPOINTS = "savepoints"
JOB_ID = re.compile("[0-9a-f]{32}")
CHECKPOINT = re.compile(r"chk-(\d+)")
HEADER = struct.Struct(">IIq")
MAGIC = 0x4960672D
"""A `_metadata` begins with this, the version of its format, and the number of its checkpoint."""


@dataclass(frozen=True)
class State:
    """A complete checkpoint or savepoint.

    Attributes:
        uri: of its directory.
        number: of the checkpoint; -1 if its `_metadata` cannot be read.
    """

    uri: str
    number: int


def local_uri(directory: Path) -> str:
    """The URI of a local directory as Flink understands it."""
    return f"file://{directory.absolute()}"


def local_path(uri: str) -> Path | None:
    """The inverse of `local_uri`; None for a directory that is not local."""
    if uri.startswith("/"):
        return Path(uri)
    path = uri.removeprefix("file:")
    return None if path == uri else Path(re.sub("^//(?=/)", "", path))


def savepoints(checkpoints: str) -> str:
    """Where savepoints go: beside the checkpoints."""
    return f"{checkpoints.rstrip('/')}/{SAVEPOINTS}"


def earlier_place(checkpoints: str) -> str:
    """Where an earlier version of this project let Flink keep the checkpoints of this directory.

    It percent-encoded the path, which Flink does not decode, so that they lie beside the data
    directory. Empty where the two do not differ, or where that place is not such a one.
    """
    path = local_path(checkpoints)
    if path is None or not path.is_absolute():
        return ""
    encoded = Path(path.as_uri().removeprefix("file://"))
    try:
        # Nothing but checkpoints: no data directory that happens to be called so.
        alone = [p.name for p in encoded.parent.iterdir()] == [encoded.name]
    except OSError:
        return ""
    return local_uri(encoded) if alone and encoded != path else ""


def _file_system(uri: str) -> tuple[FileSystem, str]:
    """The file system of a directory, and its path there."""
    from pyarrow import ArrowException
    from pyarrow.fs import FileSystem, LocalFileSystem

    if (local := local_path(uri)) is not None:
        return LocalFileSystem(), str(local)
    try:
        # Flink says s3a and s3p for its two implementations.
        system, path = FileSystem.from_uri(re.sub("^s3[ap]:", "s3:", uri))
    except (ArrowException, OSError, ValueError) as error:
        raise StreamingError(f"cannot look for checkpoints in {uri} ({error})") from error
    return system, path


def _files(uri: str, *, recursive: bool) -> tuple[FileSystem, str, list[FileInfo]]:
    from pyarrow.fs import FileSelector

    system, path = _file_system(uri)
    try:
        found = system.get_file_info(FileSelector(path, recursive=recursive, allow_not_found=True))
    except OSError as error:
        raise StreamingError(f"cannot look for checkpoints in {uri} ({error})") from error
    return system, path, found


def checkpoint_number(uri: str) -> int | None:
    """The number in the name of a checkpoint's directory; None for a savepoint."""
    named = CHECKPOINT.fullmatch(uri.rstrip("/").rsplit("/", 1)[-1])
    return int(named[1]) if named else None


def _number(system: FileSystem, metadata: FileInfo) -> int:
    try:
        with system.open_input_stream(metadata.path) as file:
            magic, _, number = HEADER.unpack(file.read(HEADER.size))
    except (OSError, struct.error):
        return -1
    return int(number) if magic == MAGIC else -1


def _states(checkpoints: str) -> Iterator[State]:
    system, root, found = _files(checkpoints, recursive=True)
    for file in found:
        # A checkpoint is complete once its `_metadata` is there.
        if file.is_file and file.base_name == "_metadata":
            inside = file.path.removeprefix(root.rstrip("/")).removesuffix("/_metadata")
            yield State(checkpoints.rstrip("/") + inside, _number(system, file))


def states(checkpoints: str) -> list[State]:
    """Every complete checkpoint and savepoint, also those in the `earlier_place`.

    Raises:
        StreamingError: if the directory cannot be looked into.
    """
    places = [checkpoints, *filter(None, [earlier_place(checkpoints)])]
    return [state for place in places for state in _states(place)]


def newest_state(checkpoints: str, forgotten: Collection[str] = ()) -> State | None:
    """The newest complete checkpoint or savepoint; None where there is none.

    Args:
        checkpoints: the directory.
        forgotten: URIs of states that do not count.

    Raises:
        StreamingError: if the directory cannot be looked into, or its newest state is damaged.
    """
    old = {local_path(uri) or uri for uri in forgotten}
    found = [s for s in states(checkpoints) if (local_path(s.uri) or s.uri) not in old]
    newest = max(found, key=lambda state: state.number, default=None)
    for state in found:
        if state.number < 0:
            named = checkpoint_number(state.uri)
            if named is None or newest is None or named > newest.number:
                raise StreamingError(
                    f"{state.uri} is damaged: its _metadata is empty, or none of Flink's"
                )
    return newest


def remove_other_states(checkpoints: str, job: str) -> list[str]:
    """Remove what earlier submissions left, once `job` has a checkpoint; returns the names.

    A job that was restored leaves the state it began from as it is (NO_CLAIM), and its own first
    checkpoint depends on nothing else.

    Raises:
        StreamingError: if the directory cannot be looked into.
    """
    removed = []
    for place in filter(None, [checkpoints, earlier_place(checkpoints)]):
        system, _, found = _files(place, recursive=False)
        old = [f for f in found if JOB_ID.fullmatch(f.base_name) and f.base_name != job]
        _, _, taken = _files(savepoints(place), recursive=False)
        old += [f for f in taken if f.base_name.startswith("savepoint-")]
        for state in old:
            try:
                system.delete_dir(state.path)
            except OSError:  # somebody else was quicker
                continue
            removed.append(state.base_name)
    return sorted(removed)
