"""The facts in the manifest of a handover: what the trainer says of the state that it publishes.

They are read by attribute, here and by everyone above. Who is older must not answer from what it
cannot understand.
"""

from __future__ import annotations

from typing import Any, Self

from pydantic import ConfigDict, ValidationError

from model.artifacts.manifest import Manifest, ManifestError
from streaming.versioned import Versioned


class HandoverFacts(Versioned):
    """What a handover is made of.

    Attributes:
        sequence: number of the handover.
        reason: why it was published.
        offsets: topic -> partition in decimal -> next offset that was not learnt from.
        event_time_range: [first, last] event time learnt from, in ms; empty before the first.
        trained_events: events learnt from.
        micro_batches: batches they came in.
        metrics: quality and health of the codebook, by name.
        drift: of each first-level code since the handover before.
        follows: number of the handover whose items it adds to; 0: it says all of them.
        segments: its files of items, oldest first; see `model.retrieval.item_segments`.
        model: what `RetrievalModel` needs beside the weights; see `model.retrieval.model_facts`.
    """

    model_config = ConfigDict(strict=True)

    sequence: int = 0
    reason: str | None = None
    offsets: dict[str, dict[str, int]] = {}
    event_time_range: list[int] = []
    trained_events: int | None = None
    micro_batches: int | None = None
    metrics: dict[str, Any] = {}
    drift: list[float] = []
    follows: int = 0
    segments: list[str] = []
    model: dict[str, Any] = {}

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """What a manifest says, to be built upon.

        Raises:
            ManifestError: if a newer version wrote it, or a fact is not what it should be.
        """
        if words := cls.known(manifest).newer:
            raise ManifestError(words)
        try:
            return cls.model_validate(manifest.facts)
        except ValidationError as error:
            wrong = error.errors()[0]
            where = ".".join(map(str, wrong["loc"]))
            raise ManifestError(f"its manifest says {where} {wrong['input']!r}") from error

    @classmethod
    def known(cls, manifest: Manifest) -> Self:
        """What can be understood of a manifest, to be shown; the rest counts as not said."""
        return cls.read(manifest.facts)

    @property
    def newer(self) -> str:
        """What to do about facts of a newer version, in words; empty if they are none."""
        if self.schema_version <= self.VERSION:
            return ""
        return (
            f"written by a newer version of this program (facts {self.schema_version}, this one "
            f"knows {self.VERSION}): run that version here, too"
        )

    @property
    def trained_until_ms(self) -> int | None:
        """The last event time learnt from; None before the first."""
        return self.event_time_range[-1] if self.event_time_range else None

    def learnt_to(self, topic: str) -> dict[int, int]:
        """Partition -> next offset of a topic that was not learnt from."""
        return {int(p): o for p, o in self.offsets.get(topic, {}).items()}
