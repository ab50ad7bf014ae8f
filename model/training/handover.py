"""Handovers: the trainer's published states, from which the indexer builds snapshots.

    handover/<number, 8 digits>/
        weights.safetensors          the network's weights
        items-<number>.safetensors   segments of items, named by `HandoverFacts.segments`
        manifest.json                with `HandoverFacts`
    handover/refused/<number>        by the indexer: it could not read this one

Numbers rise and are never used for another state, also not after a crash: the number is decided
in the journal, and a number that is on disk is not written again.

A handover says of the items what changed since the one that it follows, whose segments it links
(`model.artifacts.chain`). When the changes outgrow what they are changes of, all that was said is
written as one segment, with the same values. Where the one before is damaged, gone, or was refused
by its reader, the next says everything anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import structlog
from safetensors import SafetensorError

from model.artifacts.chain import Chain
from model.artifacts.handover_facts import HandoverFacts
from model.artifacts.manifest import Manifest, publish, verify
from model.artifacts.numbered import NumberedDirectories
from model.artifacts.verified_files import VerifiedFiles
from model.learning.export import Export
from model.retrieval.item_segments import ItemSegments
from model.retrieval.segment import Segment
from model.training.checkpoint import write_tensors
from model.training.micro_batch import TrainerError
from streaming.durable_files import remove_partial

if TYPE_CHECKING:
    from model.retrieval.retrieval_model import RetrievalModel

log = structlog.get_logger(__name__)

WEIGHTS = "weights.safetensors"
REFUSED = "refused"


class Handovers(Protocol):
    """Where published states go."""

    def newest(self) -> int:
        """The highest number that was published, 0 if none."""

    def items(self, number: int) -> ItemSegments | None:
        """What a handover says of the items, for one that follows it; None: nothing can follow."""

    def publish(self, number: int, export: Export, facts: HandoverFacts) -> None:
        """Make a state visible under its number, behind the one that `facts.follows`."""

    def model(self, number: int) -> RetrievalModel | None:
        """The model of a published state, or None if it is not to be had any more."""


@dataclass(frozen=True)
class _Held:
    """A handover that was written or verified by this process; its segments are mapped."""

    number: int
    manifest: Manifest
    chain: Chain
    items: ItemSegments


class HandoverDirectory:
    """Handovers on disk, the last `keep` of them; `load` makes a model of a verified one."""

    def __init__(
        self,
        directory: Path,
        keep: int,
        load: Callable[[Path, Manifest, ItemSegments], RetrievalModel],
    ) -> None:
        self._directories = NumberedDirectories(directory)
        self._keep = keep
        self._load = load
        self._held: _Held | None = None
        self._verified = VerifiedFiles()
        self._distrusted = 0
        remove_partial(directory)

    def newest(self) -> int:
        """The highest number on disk, 0 if none."""
        return self._directories.newest()

    def items(self, number: int) -> ItemSegments | None:
        """What handover `number` says of the items.

        None where there is none, or nothing is to follow it, as it is damaged (with a log line) or
        was refused by its reader.
        """
        if self._refusal(number).exists():
            log.error(
                "the last handover was refused by its reader: the next one says everything anew",
                number=number,
                reason=str(self._refusal(number)),
            )
            return None
        if number and number == self._distrusted:
            return None
        held = self._hold(number, "handover unreadable: the next one says everything anew")
        return held.items if held is not None else None

    def publish(self, number: int, export: Export, facts: HandoverFacts) -> None:
        """Publish a directory, then remove those beyond `keep`.

        Raises:
            TrainerError: if it cannot be written; nothing of it is then visible.
        """
        path = self._directories.path(number)
        name = f"items-{path.name}.safetensors"
        segment, before = export.segment, self._before(facts.follows)
        chain = before.chain if before is not None else None
        if before is not None and before.chain.is_full(segment.nbytes):
            # what is written again gets a digest of its own, damaged or not
            if before.chain.is_as_written():
                segment, chain = before.items.with_segment(segment).as_base(), None
            else:
                log.error("files of handovers have been altered: the next one says everything anew")
                self._distrusted = number

        def write(directory: Path) -> None:
            if chain is not None:
                chain.link(directory)
            write_tensors(directory / WEIGHTS, export.tensors)
            segment.save(directory / name)

        names = [*chain.names, name] if chain is not None else [name]
        facts = facts.model_copy(update={"segments": names})
        digests = chain.digests if chain is not None else None
        try:
            manifest = publish(path, "handover", facts.to_json(), write, digests)
            mapped = Segment.load(path / name)
        except (OSError, ValueError) as error:
            raise TrainerError(
                f"{path}: the handover cannot be written ({error}); free some space or make the "
                "directory writable, then start again: nothing was lost"
            ) from error
        if before is not None and chain is not None:
            items = before.items.with_segment(mapped)
        else:
            items = ItemSegments.of([mapped])
        self._held = _Held(number, manifest, Chain.of(path, manifest), items)
        self._directories.keep(self._keep)
        self._forget_refusals(facts.follows)

    def model(self, number: int) -> RetrievalModel | None:
        """The model of handover `number`; None, with a log line, if it is gone or damaged."""
        held = self._hold(number, "handover unreadable: no answers until the next")
        if held is None:
            return None
        path = self._directories.path(number)
        try:
            HandoverFacts.of(held.manifest)  # refuses those of a newer version
            return self._load(path, held.manifest, held.items)
        except (ValueError, OSError, SafetensorError) as error:
            log.error("handover unreadable: no answers until the next", reason=str(error))
            return None

    def _hold(self, number: int, consequence: str) -> _Held | None:
        """A handover whose files verify; what this process knows already is not read again."""
        path = self._directories.path(number)
        if not number or not path.is_dir():
            return None
        try:
            manifest = verify(path, "handover", self._verified.digest)
            if self._held is None or self._held.manifest.digest != manifest.digest:
                chain = Chain.of(path, manifest)
                items = ItemSegments.of([Segment.load(one) for one in chain.paths()])
                self._held = _Held(number, manifest, chain, items)
        except (ValueError, OSError, SafetensorError) as error:
            log.error(consequence, reason=str(error))
            return None
        return self._held

    def _before(self, number: int) -> _Held | None:
        if not number:
            return None
        if self._held is None or self._held.number != number:
            raise TrainerError(f"a handover is to follow number {number}, which is not at hand")
        return self._held

    def _refusal(self, number: int) -> Path:
        return self._directories.folder / REFUSED / str(number)

    def _forget_refusals(self, follows: int) -> None:
        """What was refused before a handover that follows nothing is answered by it."""
        folder = self._directories.folder / REFUSED
        if not follows and folder.is_dir():
            for one in folder.iterdir():
                one.unlink(missing_ok=True)
