"""Handovers: the trainer's published states, from which the indexer builds snapshots.

    handover/<number, 8 digits>/
        weights.safetensors   the network's weights
        items-<number>.safetensors   segments of items, named by `HandoverFacts.segments`
        manifest.json         with `HandoverFacts`

Numbers rise and are never used for another state, also not after a crash: the number is decided
in the journal, and a number that is on disk is not written again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import structlog
from safetensors import SafetensorError

from model.artifacts.handover_facts import HandoverFacts
from model.artifacts.manifest import Manifest, publish, verify
from model.artifacts.numbered import NumberedDirectories
from model.learning.export import Export
from model.training.checkpoint import write_tensors
from model.training.micro_batch import TrainerError
from streaming.durable_files import remove_partial

if TYPE_CHECKING:
    from model.retrieval.retrieval_model import RetrievalModel

log = structlog.get_logger(__name__)

WEIGHTS = "weights.safetensors"


class Handovers(Protocol):
    """Where published states go."""

    def newest(self) -> int:
        """The highest number that was published, 0 if none."""

    def publish(self, number: int, export: Export, facts: HandoverFacts) -> None:
        """Make a state visible under its number."""

    def model(self, number: int) -> RetrievalModel | None:
        """The model of a published state, or None if it is not to be had any more."""


class HandoverDirectory:
    """Handovers on disk, the last `keep` of them; `load` reads a verified one."""

    def __init__(
        self, directory: Path, keep: int, load: Callable[[Path, Manifest], RetrievalModel]
    ) -> None:
        self._directories = NumberedDirectories(directory)
        self._keep = keep
        self._load = load
        remove_partial(directory)

    def newest(self) -> int:
        """The highest number on disk, 0 if none."""
        return self._directories.newest()

    def publish(self, number: int, export: Export, facts: HandoverFacts) -> None:
        """Publish a directory, then remove those beyond `keep`.

        Raises:
            TrainerError: if it cannot be written; nothing of it is then visible.
        """
        path = self._directories.path(number)
        name = f"items-{path.name}.safetensors"

        def write(directory: Path) -> None:
            write_tensors(directory / WEIGHTS, export.tensors)
            export.segment.save(directory / name)

        facts = facts.model_copy(update={"segments": [name]})
        try:
            publish(path, "handover", facts.to_json(), write)
        except OSError as error:
            raise TrainerError(
                f"{path}: the handover cannot be written ({error}); free some space or make the "
                "directory writable, then start again: nothing was lost"
            ) from error
        self._directories.keep(self._keep)

    def model(self, number: int) -> RetrievalModel | None:
        """The model of handover `number`; None, with a log line, if it is gone or damaged."""
        path = self._directories.path(number)
        if not path.is_dir():
            return None
        try:
            manifest = verify(path, "handover")
            HandoverFacts.of(manifest)  # refuses those of a newer version
            return self._load(path, manifest)
        except (ValueError, OSError, SafetensorError) as error:
            log.error("handover unreadable: no answers until the next", reason=str(error))
            return None
