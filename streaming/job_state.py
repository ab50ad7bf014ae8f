"""The states that a job can go on from: checkpoints and savepoints in a directory.

Local directories are looked into, and those of S3, Google Cloud Storage and HDFS, with the
credentials that pyarrow finds (environment, instance role).
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from streaming.failure import StreamingError

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem

SAVEPOINTS = "savepoints"
JOB_ID = re.compile("[0-9a-f]{32}")
METADATA_HEAD = struct.Struct(">iiq")
METADATA_MAGIC = 0x4960672D


def savepoints(checkpoints: str) -> str:
    """Where savepoints go: beside the checkpoints."""
    return f"{checkpoints.rstrip('/')}/{SAVEPOINTS}"


def _file_system(uri: str) -> tuple[FileSystem, str]:
    """The file system of a directory, and its path there."""
    from pyarrow import ArrowException
    from pyarrow.fs import FileSystem, LocalFileSystem

    if uri.startswith("file:"):
        return LocalFileSystem(), url2pathname(urlsplit(uri).path)
    try:
        # Flink says s3a and s3p for its two implementations.
        system, path = FileSystem.from_uri(re.sub("^s3[ap]:", "s3:", uri))
    except (ArrowException, OSError, ValueError) as error:
        raise StreamingError(
            f"cannot look for checkpoints in {uri} ({error}); name the one to go on from with "
            "--restore URI, or begin anew with --restore none"
        ) from error
    return system, path


def _files(uri: str, *, recursive: bool) -> tuple[FileSystem, str, list[FileInfo]]:
    from pyarrow.fs import FileSelector

    system, path = _file_system(uri)
    try:
        found = system.get_file_info(FileSelector(path, recursive=recursive, allow_not_found=True))
    except OSError as error:
        raise StreamingError(f"cannot look for checkpoints in {uri}: {error}") from error
    return system, path, found


def newest_state(checkpoints: str) -> str:
    """The URI of the newest complete checkpoint or savepoint; empty where there is none.

    A checkpoint is complete once its `_metadata` is there. The newest is the one with the highest
    number, which goes on from submission to submission and is written in every checkpoint and
    savepoint; of equal numbers, and where there is none, the time of the file decides. Time alone
    does not: a clock that was put back would bring an older state to life, and all that the job has
    committed since then would be written once more.

    Raises:
        StreamingError: if the directory cannot be looked into.
    """
    system, root, found = _files(checkpoints, recursive=True)
    complete = [f for f in found if f.base_name == "_metadata" and f.size]
    newest = max(complete, key=lambda f: (_number(system, f), f.mtime_ns or 0), default=None)
    if newest is None:
        return ""
    if checkpoints.startswith("file:"):
        return Path(newest.path).parent.resolve().as_uri()
    inside = newest.path.removeprefix(root.rstrip("/")).removesuffix("/_metadata")
    return checkpoints.rstrip("/") + inside


def _number(system: FileSystem, metadata: FileInfo) -> int:
    """The number of a checkpoint or savepoint, by the head of its metadata (Flink's version 2 on).

    Raises:
        StreamingError: if the file cannot be read.
    """
    try:
        with system.open_input_stream(metadata.path) as file:
            head = file.read(METADATA_HEAD.size)
    except OSError as error:
        raise StreamingError(f"cannot read {metadata.path}: {error}") from error
    if len(head) == METADATA_HEAD.size:
        magic, version, number = METADATA_HEAD.unpack(head)
        if magic == METADATA_MAGIC and version >= 2:
            return int(number)
    return -1


def remove_other_states(checkpoints: str, job: str) -> list[str]:
    """Remove what earlier submissions left, once `job` has a checkpoint; returns the names.

    A job that was restored leaves the state it began from as it is (NO_CLAIM), and its own first
    checkpoint depends on nothing else.

    Raises:
        StreamingError: if the directory cannot be looked into.
    """
    system, _, found = _files(checkpoints, recursive=False)
    old = [f for f in found if JOB_ID.fullmatch(f.base_name) and f.base_name != job]
    _, _, taken = _files(savepoints(checkpoints), recursive=False)
    old += [f for f in taken if f.base_name.startswith("savepoint-")]
    for state in old:
        try:
            system.delete_dir(state.path)
        except OSError:  # somebody else was quicker
            continue
    return sorted(state.base_name for state in old)
