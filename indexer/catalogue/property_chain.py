"""`properties.json`: what holds of every item, whatever version answers; a base and what changed.

    {"files": [{"file": "properties/00000012.arrow", "sha256": ..., "bytes": ...}, ...],
     "position": {partition of `items`: next offset}}

The indexer writes a file of the items that `items` spoke of since the last one, then replaces the
pointer in one step. A row of a later file takes the place of an earlier one. It lies beside the
versions and belongs to none: an older version that is served again, by a rollback or a restart,
knows nothing of what was hidden, withdrawn or changed after it, so whoever answers from a version
asks here.

A new file takes those before it into itself as long as they are no more than twice as large as it
has become, or small. So each file is about twice as large as the next, or more, and what is said of
one item is written again only as often as their number, a logarithm of the catalogue.

Files are Arrow IPC without compression, verified by their digests and mapped into memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from indexer.catalogue.property_rows import is_complete, merged, without_forgotten
from indexer.errors import SnapshotError
from indexer.lists.cells import MAX_ITEMS
from model.artifacts.manifest import sha256
from streaming.durable_files import PARTIAL, appear, make_folder, remove_partial, write_atomically

POINTER = "properties.json"
FOLDER = "properties"
SMALL = 1 << 18
"""Bytes of a file that the next one takes into itself."""
MOST = 64
"""Files of a pointer."""
Position = dict[int, int]


@dataclass(frozen=True)
class PropertyFile:
    """A file of the chain: its path below the data directory, SHA-256 and bytes."""

    file: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class PropertyPointer:
    """What the pointer says: the files, oldest first, and the position in `items` they cover."""

    files: tuple[PropertyFile, ...] = ()
    position: Mapping[int, int] = field(default_factory=dict)


def read_pointer(data_dir: Path) -> PropertyPointer | None:
    """The pointer; None before the first.

    Raises:
        SnapshotError: if it is damaged, or names a path of another form.
    """
    path = data_dir / POINTER
    try:
        body = orjson.loads(path.read_bytes())
        files = tuple(
            PropertyFile(str(one["file"]), str(one["sha256"]), int(one["bytes"]))
            for one in body["files"]
        )
        position = {int(p): int(offset) for p, offset in body["position"].items()}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise SnapshotError(damage(path, repr(error))) from error
    for one in files:
        if one.file != _name(_number(one.file)) or len(files) > MOST:
            raise SnapshotError(damage(path, f"{one.file!r} is no file of properties"))
    return PropertyPointer(files, position)


def write_pointer(data_dir: Path, pointer: PropertyPointer) -> None:
    """Replace the pointer in one step.

    Raises:
        OSError: if it cannot be written; the one before stays.
    """
    body: dict[str, Any] = {
        "files": [{"file": f.file, "sha256": f.sha256, "bytes": f.bytes} for f in pointer.files],
        "position": {str(p): offset for p, offset in sorted(pointer.position.items())},
    }
    write_atomically(data_dir / POINTER, orjson.dumps(body))


def covers(position: Mapping[int, int], asked: Mapping[int, int]) -> bool:
    """Whether one position is not before another, in any partition."""
    return all(position.get(p, 0) >= offset for p, offset in asked.items())


def damage(path: Path, what: str) -> str:
    """What to say of a damaged file, and what to do about it."""
    return f"{path}: damaged ({what}); restart the indexer, which writes it anew"


def _name(number: int) -> str:
    return f"{FOLDER}/{number:08d}.arrow"


def _number(file: str) -> int:
    digits = Path(file).stem
    return int(digits) if digits.isascii() and digits.isdigit() else -1


def read_file(data_dir: Path, one: PropertyFile, digest: Callable[[Path], str]) -> pa.RecordBatch:
    """Map a file of the pointer into memory.

    Raises:
        FileNotFoundError: if it is gone: the pointer names others meanwhile.
        SnapshotError: if it is not what was written.
    """
    path = data_dir / one.file
    try:
        if path.is_symlink() or digest(path) != one.sha256:
            raise SnapshotError(damage(path, "content differs from the digest in the pointer"))
        file = pa.ipc.open_file(pa.memory_map(str(path)))
        if file.num_record_batches != 1:
            raise SnapshotError(damage(path, f"{file.num_record_batches} batches, not one"))
        batch = file.get_batch(0)
        batch.validate(full=True)  # offsets and text, before anything is read by them
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise SnapshotError(damage(path, str(error))) from error
    if batch.num_rows > MAX_ITEMS or not is_complete(batch):
        raise SnapshotError(damage(path, "other columns than the properties of items have"))
    return batch


class PropertyChain:
    """Writes the chain of a data directory; the indexer alone does.

    Attributes:
        pointer: as it was written last.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self.pointer = PropertyPointer()
        self._next = 1

    def open(self) -> bool:
        """Go on with what there is, and remove what no pointer names; False where there is none.

        Raises:
            SnapshotError: if the pointer or a file is damaged.
        """
        folder = self._data_dir / FOLDER
        remove_partial(folder)
        there = {f"{FOLDER}/{path.name}" for path in folder.glob("*.arrow")}
        self._next = 1 + max(map(_number, there), default=0)
        found = read_pointer(self._data_dir)
        if found is None:
            return False
        for one in found.files:
            self._read(one)
        self.pointer = found
        self._remove(there - {one.file for one in found.files})
        return True

    def append(
        self, batch: pa.RecordBatch, position: Position, withdrawn: Set[int] | None = None
    ) -> None:
        """Add rows that were said up to a position.

        Args:
            batch: these rows.
            position: where they end.
            withdrawn: ids of all items that are known to be withdrawn: where all that was said is
                in one file, rows of others that are not listed are left out. None: of all.

        Raises:
            SnapshotError: if a file that they are merged with is damaged.
            OSError: if it cannot be written; readers have what they had.
        """
        kept = list(self.pointer.files)
        if not batch.num_rows:
            self._point(kept, position)
            return
        parts, size = [batch], batch.nbytes
        while kept and kept[-1].bytes <= max(SMALL, 2 * size):
            before = kept.pop()
            parts.insert(0, self._read(before))
            size += before.bytes
        whole = merged(parts)
        if not kept and withdrawn is not None:
            whole = without_forgotten(whole, withdrawn)
        self._point([*kept, self._written(whole)] if whole.num_rows else kept, position)

    def begin(self, batch: pa.RecordBatch, position: Position) -> None:
        """Replace all that there is by rows of all items.

        Raises:
            OSError: if it cannot be written; readers have what they had.
        """
        self._point([self._written(batch)] if batch.num_rows else [], position)

    def _read(self, one: PropertyFile) -> pa.RecordBatch:
        try:
            return read_file(self._data_dir, one, sha256)
        except FileNotFoundError as error:
            raise SnapshotError(damage(self._data_dir / one.file, "it is missing")) from error

    def _written(self, batch: pa.RecordBatch) -> PropertyFile:
        name = _name(self._next)
        path = self._data_dir / name
        make_folder(path.parent)
        partial = path.with_name(f"{PARTIAL}{path.name}")
        try:
            with partial.open("wb") as file:
                with pa.ipc.new_file(file, batch.schema) as writer:
                    writer.write_batch(batch)
                file.flush()
                os.fsync(file.fileno())
            written = PropertyFile(name, sha256(partial), partial.stat().st_size)
            appear(partial, path)
        except OSError:  # on a full disk it would keep what room there is
            partial.unlink(missing_ok=True)
            raise
        self._next += 1
        return written

    def _point(self, files: list[PropertyFile], position: Position) -> None:
        pointer = PropertyPointer(tuple(files), dict(position))
        write_pointer(self._data_dir, pointer)
        before, self.pointer = self.pointer, pointer
        self._remove({one.file for one in before.files} - {one.file for one in files})

    def _remove(self, files: set[str]) -> None:
        for file in files:
            (self._data_dir / file).unlink(missing_ok=True)
