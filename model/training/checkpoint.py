"""Checkpoints: the whole state of training after one journal entry, in one atomic directory.

    checkpoints/<entry, 12 digits>/
        dense.safetensors          network, optimizer, codebook statistics, random state, figures
        rows-<entry>.safetensors   rows of the tables, replay buffer, positions of users: all that
                                   there are, or those that changed since the checkpoint before
        meta.json                  counters, offsets after the last micro-batch, last handover
        manifest.json              written last, with the digest of the others

The files of rows are a chain (`model.artifacts.chain`): a directory holds its own and hard links to
those before it, back to one that has all rows. So a checkpoint costs what changed, and each is
complete by itself.

A directory that does not verify is set aside and the one before it is used: the journal is kept
from the oldest checkpoint on, so nothing is lost by that but time. As those that follow each other
share files, the newest checkpoint of the chain before is kept as well, and where there is none, the
second checkpoint begins another chain.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import safetensors.torch
import structlog
import torch
from safetensors import SafetensorError

from model.artifacts.chain import SEGMENTS, Chain
from model.artifacts.manifest import Manifest, ManifestError, publish, read_manifest, verify
from model.artifacts.numbered import NumberedDirectories
from model.training.micro_batch import TrainerError
from streaming.durable_files import remove_partial

log = structlog.get_logger(__name__)

DENSE = "dense.safetensors"
META = "meta.json"
DAMAGED = ".damaged-"


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds.

    Attributes:
        entry: number of the last journal entry that is part of the state.
        dense: tensors that are kept whole each time, on the CPU.
        rows: tensors of rows: first all of them, then what changed, in order, to be read once; of a
            state that is to be saved its own part alone.
        meta: JSON values: {"learner": ..., "trainer": ...}.
    """

    entry: int
    dense: dict[str, torch.Tensor]
    rows: Iterable[dict[str, torch.Tensor]]
    meta: dict[str, Any]


Take = Callable[[bool], Saved]
"""Gives the state with all rows (True), or with those that changed since it was last asked."""


class Checkpoints(Protocol):
    """Where the states are kept."""

    def newest(self) -> Saved | None:
        """The newest readable state, or None where there never was one."""

    def save(self, take: Take, *, anew: bool = False) -> int:
        """Keep a state, by itself if `anew`; returns the entry of the oldest that is still kept."""


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a safetensors file from tensors on any device.

    Raises:
        OSError: if the disk is full or not writable.
    """
    plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    try:
        safetensors.torch.save_file(plain, path)
    except SafetensorError as error:  # wraps what the operating system said
        raise OSError(f"{path}: {error}") from error


class CheckpointDirectory:
    """Checkpoints on disk: the last `keep` of them, and one of another chain if `keep` is not 1.

    What is saved must follow what was read by `newest`, or saved, last.
    """

    def __init__(self, directory: Path, keep: int) -> None:
        self._directories = NumberedDirectories(directory, digits=12)
        self._keep = keep
        self._chain: Chain | None = None
        remove_partial(directory)

    def newest(self) -> Saved | None:
        """The newest state whose files verify, or None if there is no checkpoint at all.

        Damaged ones that are newer are set aside under another name.

        Raises:
            TrainerError: if there are checkpoints and all are damaged, or an older version wrote
                the newest.
        """
        damaged: list[Path] = []
        self._chain = None
        for entry in reversed(self._directories.numbers()):
            path = self._directories.path(entry)
            try:
                manifest = verify(path, "checkpoint")
                _refuse_former(path, manifest)
                chain = Chain.of(path, manifest)
                saved = self._read(entry, chain)
            except (ManifestError, SafetensorError, ValueError, OSError, KeyError) as error:
                log.error("checkpoint damaged, falling back", path=str(path), reason=str(error))
                damaged.append(path)
                continue
            for other in damaged:
                aside = other.with_name(DAMAGED + other.name)
                shutil.rmtree(aside, ignore_errors=True)
                other.rename(aside)
            # they hold all of a chain: one is kept to be looked at
            for aside in sorted(self._directories.folder.glob(f"{DAMAGED}*"))[:-1]:
                shutil.rmtree(aside, ignore_errors=True)
            # after damage another chain begins: what is shared with a damaged one is not trusted
            self._chain = None if damaged else chain
            return saved
        if damaged:
            raise TrainerError(
                f"{self._directories.folder}: none of the {len(damaged)} checkpoints is readable; "
                "restore the directory from a backup, or begin anew with --fresh"
            )
        return None

    def _read(self, entry: int, chain: Chain) -> Saved:
        path = self._directories.path(entry)
        return Saved(
            entry,
            safetensors.torch.load_file(path / DENSE),
            (safetensors.torch.load_file(rows) for rows in chain.paths()),  # one at a time
            json.loads((path / META).read_bytes()),
        )

    def save(self, take: Take, *, anew: bool = False) -> int:
        """Write a checkpoint, then remove those beyond `keep`.

        With `anew` it shares no file with those before; after `keep` such ones nothing is left of
        what was before them.

        Raises:
            TrainerError: if it cannot be written; nothing of it is then visible.
        """
        chain = self._chain if self._keep == 1 or self._other_chain() is not None else None
        if anew:
            chain = None
            for aside in self._directories.folder.glob(f"{DAMAGED}*"):
                shutil.rmtree(aside, ignore_errors=True)
        self._chain = None  # what is asked for is given once
        saved = take(chain is None)
        if chain is not None and chain.is_full(_bytes(saved.rows)):
            chain, saved = None, take(True)
        path = self._directories.path(saved.entry)
        name = f"rows-{saved.entry:012d}.safetensors"
        (rows,) = saved.rows

        def write(directory: Path) -> None:
            if chain is not None:
                chain.link(directory)
            write_tensors(directory / name, rows)
            write_tensors(directory / DENSE, saved.dense)
            (directory / META).write_text(json.dumps(saved.meta), encoding="utf-8")

        names = [*chain.names, name] if chain is not None else [name]
        facts = {"entry": saved.entry, SEGMENTS: names}
        try:
            manifest = publish(path, "checkpoint", facts, write, chain.digests if chain else {})
        except (OSError, SafetensorError) as error:
            raise TrainerError(
                f"{path}: the checkpoint cannot be written ({error}); free some space or "
                "make the directory writable, then start again: nothing was lost"
            ) from error
        self._chain = Chain.of(path, manifest)
        other = self._other_chain() if self._keep > 1 else None
        self._directories.keep(self._keep, () if other is None else (other,))
        return self._directories.numbers()[0]

    def _other_chain(self) -> int | None:
        """The newest checkpoint that shares no file with the newest one; None if there is none."""
        if self._chain is None:
            return None
        base = self._chain.names[0], self._chain.digests[self._chain.names[0]]
        for entry in reversed(self._directories.numbers()):
            path = self._directories.path(entry)
            try:
                chain = Chain.of(path, read_manifest(path, "checkpoint"))
            except ManifestError:
                continue
            if (chain.names[0], chain.digests[chain.names[0]]) != base:
                return entry
        return None


def _refuse_former(path: Path, manifest: Manifest) -> None:
    if SEGMENTS not in manifest.facts:
        raise TrainerError(
            f"{path}: an older version of this program wrote it, and this one cannot go on from "
            "it: go on with that version, or train anew (`sparc up --fresh`)"
        )


def _bytes(rows: Iterable[Mapping[str, torch.Tensor]]) -> int:
    return sum(tensor.nbytes for part in rows for tensor in part.values())
