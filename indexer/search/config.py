"""How a query is answered; nothing that searches is imported with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from indexer.errors import IndexerError

Quota = Literal["joint", "equal"]
Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class ExplorationConfig:
    """Places that are reserved, see `indexer.search.exploration`.

    Attributes:
        untouched: share of an answer's places for codes that no item of the history has; rounded
            to whole places, so 0.02 is one place of 50 and none of 20.
        young: share for items listed at most `young_days` ago, of whatever code.
        young_days: by the wall clock, since the item was first announced.
    """

    untouched: float = 0.02
    young: float = 0.0
    young_days: float = 30.0

    def __post_init__(self) -> None:
        if not (self.untouched >= 0 and self.young >= 0 and self.untouched + self.young <= 1):
            raise IndexerError(
                f"explore: untouched is {self.untouched} and young {self.young}: use shares of the "
                "answer, together at most 1"
            )
        if not self.young_days > 0:
            raise IndexerError(f"explore: young_days is {self.young_days}, it must be positive")

    def places(self, k: int) -> tuple[int, int]:
        """How many of k places are reserved for untouched codes and for young items."""
        untouched = int(k * self.untouched + 0.5)
        return untouched, min(int(k * self.young + 0.5), k - untouched)


RANKED_ONLY = ExplorationConfig(untouched=0.0)
"""No place is reserved: the ranking alone."""


LEAST_SCORED = 1800
"""Items that may be scored for an answer however small the catalogue: they cost a tenth of a
millisecond, and 2 % of a small catalogue would hold too little to answer from."""


@dataclass(frozen=True)
class SearchConfig:
    """How a query is answered.

    Attributes:
        codes: how many codes are searched for a query (K of the paper); docs/RESULTS.md has the
            curve of recall against it.
        quota: "joint" ranks the candidates of all lists by score; "equal" gives every searched
            code the same share of the answer, which is the control.
        temperature: of p(c|u): above 1 explores more codes, below 1 fewer; 1 is the head as learnt.
        evidence: with joint quota so many items of the greatest recency prior are scored, too,
            and the neighbours of the history, whatever their code; 0: the lists alone.
        scored_share: share of the catalogue whose items may be scored for an answer, evidence
            counted, though never fewer than `LEAST_SCORED`: where the lists of these codes hold
            more, their best cells are searched. 1: no bound.
        explore: places that are reserved for what the ranking would not show.
        device: where the service searches: "cuda" is a GPU, "auto" a GPU where there is one and the
            service has one worker. All else searches on the CPU.
        device_memory_mib: of the GPU, that lists and their scoring may take; lists for which it
            does not suffice are searched on the CPU.
    """

    codes: int = 16
    quota: Quota = "joint"
    temperature: float = 1.0
    evidence: int = 256
    scored_share: float = 0.02
    explore: ExplorationConfig = field(default_factory=ExplorationConfig)
    device: Device = "auto"
    device_memory_mib: int = 4096

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu", "cuda"):
            raise IndexerError(f"device is {self.device!r}: use auto, cpu or cuda")
        if self.device_memory_mib < 1:
            raise IndexerError(f"device_memory_mib is {self.device_memory_mib}: use 1 or more")
        if self.codes < 1 or not self.temperature > 0:
            raise IndexerError(
                f"codes is {self.codes} and temperature {self.temperature}: both must be positive"
            )
        if not 0 < self.scored_share <= 1:
            raise IndexerError(f"scored_share is {self.scored_share}: use more than 0, at most 1")
        if self.evidence < 0:
            raise IndexerError(f"evidence is {self.evidence}: use 0 or more")
        if self.quota not in ("joint", "equal"):
            raise IndexerError(
                f"quota is {self.quota!r}: use joint, which ranks the items of all searched codes "
                "together, or equal, which gives each of them as many places"
            )

    def most_scored(self, items: int, share: float = 1.0) -> int:
        """How many of a catalogue's items may be scored for an answer.

        Where a share of them passes a filter, more may, up to four times `scored_share` of what
        passes: cells are ranked by the means of all their items, so more of them are looked into.
        """
        most = max(LEAST_SCORED, self.scored_share * items)
        if 0 < share < 1:
            most = max(most, min(most / share, 4 * self.scored_share * share * items))
        return round(most)
