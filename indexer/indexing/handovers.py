"""The trainer's handovers, as the indexer sees them: numbered directories of weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from indexer.errors import IndexerError
from indexer.snapshots.snapshot import WEIGHTS, ModelLoader, Source, load_weights
from model.artifacts.handover_facts import HandoverFacts
from model.artifacts.manifest import ManifestError, verify
from model.artifacts.numbered import NumberedDirectories

if TYPE_CHECKING:  # torch is needed by the model only
    from model.retrieval.retrieval_model import RetrievalModel

KIND = "handover"


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
    data_dir: Path, number: int, load_model: ModelLoader | None = None
) -> ModelExport:
    """Verify a handover and load its model.

    Raises:
        ManifestError: if a file is missing or altered.
        IndexerError: if a newer version of this program wrote it, or the weights make no model.
    """
    directory = handovers(data_dir).path(number)
    manifest = verify(directory, KIND)
    try:
        facts = HandoverFacts.of(manifest)
    except ManifestError as error:
        raise IndexerError(f"{directory}: {error}") from error
    wanted = [WEIGHTS, *facts.segments]
    for name in wanted:
        if name not in manifest.files:
            raise IndexerError(f"{directory}: holds no {name}")
    try:
        model = (load_model or load_weights)(directory, manifest)
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise IndexerError(f"{directory / WEIGHTS}: {error}") from error
    files = tuple(Source(directory / name, manifest.files[name][0]) for name in wanted)
    return ModelExport(number, facts, model, files)
