"""The trainer's handovers, as the indexer sees them: numbered directories of weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from indexer.errors import IndexerError
from indexer.snapshots.snapshot import WEIGHTS, Snapshot
from indexer.snapshots.snapshot_reading import ModelLoader, load_items, load_weights
from indexer.snapshots.snapshot_writing import Source
from model.artifacts.handover_facts import HandoverFacts
from model.artifacts.manifest import ManifestError, verify
from model.artifacts.numbered import NumberedDirectories
from model.artifacts.verified_files import VerifiedFiles
from streaming.durable_files import write_atomically

if TYPE_CHECKING:  # torch is needed by the model only
    from model.retrieval.retrieval_model import RetrievalModel

KIND = "handover"
REFUSED = "refused"
"""Folder beside the handovers: a file for each that was refused, with the reason."""


@dataclass(frozen=True)
class ModelExport:
    """A verified handover, its model, and the files that a snapshot links."""

    number: int
    facts: HandoverFacts
    model: RetrievalModel
    files: tuple[Source, ...]


def handovers(data_dir: Path) -> NumberedDirectories:
    """The published handovers of a data directory."""
    return NumberedDirectories(data_dir / KIND)


def load_handover(
    data_dir: Path,
    number: int,
    load_model: ModelLoader | None = None,
    held: Snapshot | None = None,
    verified: VerifiedFiles | None = None,
) -> ModelExport:
    """Verify a handover and load its model.

    Args:
        data_dir: the pipeline's directory.
        number: of the handover.
        load_model: reads the weights; by default `RetrievalModel.load` on the CPU.
        held: a version whose segments of items are not read again.
        verified: files that are known; None for none.

    Raises:
        ManifestError: if a file is missing or altered.
        IndexerError: if a newer version of this program wrote it, or the weights make no model.
    """
    directory = handovers(data_dir).path(number)
    manifest = verify(directory, KIND, (verified or VerifiedFiles()).digest)
    try:
        facts = HandoverFacts.of(manifest)
    except ManifestError as error:
        raise IndexerError(f"{directory}: {error}") from error
    if WEIGHTS not in manifest.files:
        raise IndexerError(f"{directory}: holds no {WEIGHTS}")
    try:
        items = load_items(directory, manifest, held)
        model = (load_model or load_weights)(directory, manifest, items)
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise IndexerError(f"{directory / WEIGHTS}: {error}") from error
    wanted = [WEIGHTS, *facts.segments]
    files = tuple(Source(directory / name, manifest.files[name][0]) for name in wanted)
    return ModelExport(number, facts, model, files)


def tell_refused(data_dir: Path, number: int, reason: str) -> None:
    """Tell the trainer that a handover cannot be read: it begins a new base then.

    Raises:
        OSError: if it cannot be written.
    """
    path = data_dir / KIND / REFUSED / str(number)
    write_atomically(path, orjson.dumps({"number": number, "reason": reason}))
