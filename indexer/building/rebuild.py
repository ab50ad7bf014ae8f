"""Which lists a new version writes anew, and which files it shares with its parent.

Every list holds what the model and the indexer say now: what has moved since its file was written
lies in its tail, and is searched like the rest. So a list is written anew not to be right, but to
be quick:

- *changes*: rows that came, or rows that left, since its file was written are more than
  `CHANGES_SHARE` of the rows of the file. Readers keep tails in memory, each for itself, and look
  past removed rows;
- *drift*: its code has drifted by more than `drift_threshold`. Its cells, which say which of its
  rows are worth a look, were made under a codebook that is gone;
- *first*: there is no file to share.

A version writes about as many rows at most as it is allowed, however large the catalogue: the
lists that have changed most come first, then those that drift most, by traffic, and the others
wait; only lists that have doubled never do. A list in which nothing has changed is never written:
it would be the same file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from indexer.building.drift import Drift
from indexer.lists.code_list import CodeList
from indexer.lists.code_lists import CodeLists

CHANGES_SHARE = 0.5
"""A change is written about twice more (1 / share), and tails are a fourth of the lists."""
DOUBLED = 1.0
"""Of a list whose tail has more rows than its file, which happens as a catalogue comes."""
MOST_SHARE = 0.25
"""Of a small catalogue, which is all allowed: while everything drifts, some lists can be shared."""
FEW = 512
"""So many changes are no reason: they are searched as quickly as the one cell of a short list."""


@dataclass(frozen=True)
class Rebuild:
    """The lists of a new version.

    Attributes:
        lists: all of them; the files of shared ones are the parent's.
        reasons: code -> why its list is written anew ("first", "drift", "changes").
        deferred: codes whose list is due and waits for a later version: shared.
    """

    lists: CodeLists
    reasons: dict[int, list[str]]
    deferred: tuple[int, ...] = ()

    @property
    def shared(self) -> list[int]:
        """Codes whose file is the parent's."""
        return [code for code in range(len(self.lists.lists)) if code not in self.reasons]


def first(lists: CodeLists) -> Rebuild:
    """All lists written, as there is nothing to share."""
    return Rebuild(lists, {code: ["first"] for code in range(len(lists.lists))})


def rebuild(
    lists: CodeLists, drift: Drift, drift_threshold: float, rebuild_rows: int | None = None
) -> Rebuild:
    """What is written anew of lists that have grown from their parent's.

    Args:
        lists: as they are to be; the base of each is the parent's file.
        drift: since the parent.
        drift_threshold: as in `IndexerConfig`.
        rebuild_rows: rows of the lists that are written at most, and never more than
            `MOST_SHARE` of all, though one list always may be, and all that have doubled; None for
            any number.
    """
    changes_C = np.array([max(len(one.tail), len(one.removed)) for one in lists.lists])
    bases_C = np.array([len(one.base) for one in lists.lists])
    many_C = (changes_C > FEW) & (changes_C > CHANGES_SHARE * bases_C)
    drifted_C = (drift.drift_C > drift_threshold) & (changes_C > 0)
    share_C = np.where(many_C, changes_C / np.maximum(bases_C, 1), 0.0)
    order_C = np.lexsort((-drift.drift_C * drift.weight_C, -share_C))  # by share, then by drift
    due = order_C[(many_C | drifted_C)[order_C]]
    count = len(due)
    if rebuild_rows is not None:
        rows = np.cumsum(lists.sizes_C[due])
        most = min(rebuild_rows, MOST_SHARE * len(lists))
        allowed = int(np.searchsorted(rows, most, side="right"))
        count = max(allowed, int((share_C[due] > DOUBLED).sum()), 1)
    reasons: dict[int, list[str]] = {}
    for code in sorted(due[:count].tolist()):
        why = (("changes", many_C[code]), ("drift", drifted_C[code]))
        reasons[code] = [name for name, holds in why if holds]
    packed = {code: CodeList(lists.lists[code].packed()) for code in reasons}
    return Rebuild(lists.replaced(packed), reasons, tuple(sorted(due[count:].tolist())))
