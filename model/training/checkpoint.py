"""Checkpoints: the whole state of training after one journal entry, in one atomic directory.

    checkpoints/<entry, 12 digits>/
        learner.safetensors   weights, optimizer, codebook statistics, random state, replay buffer
        trainer.safetensors   last trained position of each user, prequential metrics
        meta.json             counters, offsets after the last finished micro-batch, last handover
        manifest.json         written last, with the digest of the others

A directory that does not verify is set aside and the one before it is used: the journal is kept
from the oldest checkpoint on, so nothing is lost by that but time.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import safetensors.numpy
import safetensors.torch
import structlog
import torch
from safetensors import SafetensorError

from model.artifacts.manifest import ManifestError, publish, verify
from model.artifacts.numbered import NumberedDirectories
from model.training.micro_batch import TrainerError
from streaming.durable_files import remove_partial

log = structlog.get_logger(__name__)

LEARNER = "learner.safetensors"
TRAINER = "trainer.safetensors"
META = "meta.json"
DAMAGED = ".damaged-"


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds.

    Attributes:
        entry: number of the last journal entry that is part of the state.
        tensors: the learner's, on the CPU.
        arrays: the trainer's own.
        meta: JSON values: {"learner": ..., "trainer": ...}.
    """

    entry: int
    tensors: dict[str, torch.Tensor]
    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]


class Checkpoints(Protocol):
    """Where the states are kept."""

    def newest(self) -> Saved | None:
        """The newest readable state, or None where there never was one."""

    def save(self, saved: Saved) -> int:
        """Keep a state; returns the entry of the oldest one that is still kept."""


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
    """Checkpoints on disk, the last `keep` of them."""

    def __init__(self, directory: Path, keep: int) -> None:
        self._directories = NumberedDirectories(directory, digits=12)
        self._keep = keep
        remove_partial(directory)

    def newest(self) -> Saved | None:
        """The newest state whose files verify, or None if there is no checkpoint at all.

        Damaged ones that are newer are set aside under another name.

        Raises:
            TrainerError: if there are checkpoints and all are damaged.
        """
        damaged: list[Path] = []
        for entry in reversed(self._directories.numbers()):
            path = self._directories.path(entry)
            try:
                saved = self._read(entry)
            except (ManifestError, SafetensorError, ValueError, OSError, KeyError) as error:
                log.error("checkpoint damaged, falling back", path=str(path), reason=str(error))
                damaged.append(path)
                continue
            for other in damaged:
                aside = other.with_name(DAMAGED + other.name)
                shutil.rmtree(aside, ignore_errors=True)
                other.rename(aside)
            return saved
        if damaged:
            raise TrainerError(
                f"{self._directories.folder}: none of the {len(damaged)} checkpoints is readable; "
                "restore the directory from a backup, or begin anew with --fresh"
            )
        return None

    def _read(self, entry: int) -> Saved:
        path = self._directories.path(entry)
        verify(path, "checkpoint")
        return Saved(
            entry,
            safetensors.torch.load_file(path / LEARNER),
            safetensors.numpy.load_file(path / TRAINER),
            json.loads((path / META).read_bytes()),
        )

    def save(self, saved: Saved) -> int:
        """Write a checkpoint unless that entry has one, then remove those beyond `keep`.

        Raises:
            TrainerError: if it cannot be written; nothing of it is then visible.
        """
        path = self._directories.path(saved.entry)

        def write(directory: Path) -> None:
            write_tensors(directory / LEARNER, saved.tensors)
            safetensors.numpy.save_file(saved.arrays, directory / TRAINER)
            (directory / META).write_text(json.dumps(saved.meta), encoding="utf-8")

        if not path.exists():
            try:
                publish(path, "checkpoint", {"entry": saved.entry}, write)
            except (OSError, SafetensorError) as error:
                raise TrainerError(
                    f"{path}: the checkpoint cannot be written ({error}); free some space or "
                    "make the directory writable, then start again: nothing was lost"
                ) from error
        self._directories.keep(self._keep)
        return self._directories.numbers()[0]
