"""The trainer's handovers, as the indexer sees them: numbered directories of weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from indexer.errors import IndexerError
from indexer.snapshots.pointer import positions
from indexer.snapshots.snapshot import WEIGHTS, ModelLoader, Source, load_weights
from model.artifacts.manifest import Manifest, verify
from model.artifacts.numbered import NumberedDirectories

if TYPE_CHECKING:  # torch is needed by the model only
    from model.retrieval.retrieval_model import RetrievalModel

KIND = "handover"


@dataclass(frozen=True)
class ModelExport:
    """A verified handover and its model."""

    number: int
    manifest: Manifest
    model: RetrievalModel
    weights: Source

    @property
    def position(self) -> dict[int, int]:
        """Partition -> next offset of `items` that the trainer had not read."""
        return items_position(self.manifest.facts)


def handovers(data_dir: Path) -> NumberedDirectories:
    """The published handovers of a data directory."""
    return NumberedDirectories(data_dir / KIND)


def load_handover(
    data_dir: Path, number: int, load_model: ModelLoader | None = None
) -> ModelExport:
    """Verify a handover and load its model.

    Raises:
        ManifestError: if a file is missing or altered.
        IndexerError: if the weights make no model.
    """
    directory = handovers(data_dir).path(number)
    manifest = verify(directory, KIND)
    if WEIGHTS not in manifest.files:
        raise IndexerError(f"{directory}: holds no {WEIGHTS}")
    try:
        model = (load_model or load_weights)(directory, manifest)
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise IndexerError(f"{directory / WEIGHTS}: {error}") from error
    source = Source(directory / WEIGHTS, manifest.files[WEIGHTS][0])
    return ModelExport(number, manifest, model, source)


def items_position(facts: dict[str, Any]) -> dict[int, int]:
    """Partition -> next offset of `items` in the facts of a handover."""
    offsets = facts.get("offsets")
    return positions(offsets.get("items")) if isinstance(offsets, dict) else {}
