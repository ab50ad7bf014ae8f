"""Which lists a new version builds anew, and which it shares with its parent.

A list is shared only where sharing changes no answer beyond a stated tolerance:

- *membership*: the list holds exactly the items assigned to its code, always;
- *vectors*: no item of it has moved, against the vector in the list (not against the previous
  model, so small steps do not add up unseen), by more than `vector_tolerance` of the catalogue's
  root mean square norm. A stale vector under a moved user tower is the failure that DACT
  (SIGIR 2026) measures, so a code whose centroid stood still is not shared for that alone;
- *drift*: the code's drift is within `drift_threshold`.

On Beauty (64 codes, a handover every 5,000 events) joint training moves every vector by about 5 %
of the norm or more between two handovers and 15-36 % of the items change code, so every list is
built anew at each of them: 8 ms for all 64 (12,101 x 133), and 12 ms to write them. Keeping the
old vectors under the new codes instead gives answers that share 55 % with the fresh ones, and
recall@50 .095 for .100; vectors off by 0.1 % give answers that share 99.9 %, by 1 % 99.3 %.

Everything else is built anew, and every code built anew has its reasons on record. A list that is
built for drift alone answers as the shared one would, within the tolerance; so when very many codes
drift at once, those that drift most, by traffic, are built, and the others wait.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from indexer.building.drift import Drift
from indexer.lists.code_list import CodeList
from indexer.lists.code_lists import CodeLists, members, seconds


@dataclass(frozen=True)
class Rebuild:
    """The lists of a new version.

    Attributes:
        lists: all of them; shared ones are the parent's objects.
        reasons: code -> why its list was built anew ("first", "membership", "vectors", "drift").
        deferred: codes that drifted, and no more than that, in a flood of drift: shared.
    """

    lists: CodeLists
    reasons: dict[int, list[str]]
    deferred: tuple[int, ...] = ()

    @property
    def shared(self) -> list[int]:
        """Codes whose list is the parent's."""
        return [code for code in range(len(self.lists.lists)) if code not in self.reasons]


def rebuild(
    parent: CodeLists | None,
    item_ids_N: NDArray[np.int64],
    codes_NQ: NDArray[np.int64],
    vectors_ND: NDArray[np.float32],
    first_level_codes: int,
    drift: Drift | None,
    *,
    drift_threshold: float,
    vector_tolerance: float,
    drift_rebuilds: int | None = None,
) -> Rebuild:
    """Lists of all items by first-level code, sharing with `parent` what the rule allows.

    `parent` None, or of another number of codes or dimension, shares nothing. `item_ids_N` is
    ascending. At most `drift_rebuilds` lists are built for drift alone, None for any number.

    Raises:
        IndexerError: as `CodeLists.build`.
    """
    if (
        parent is None
        or drift is None
        or (len(parent.lists), parent.dimension) != (first_level_codes, vectors_ND.shape[1])
    ):
        fresh = CodeLists.build(item_ids_N, codes_NQ, vectors_ND, first_level_codes)
        return Rebuild(fresh, {code: ["first"] for code in range(first_level_codes)})
    square_N = (vectors_ND.astype(np.float64) ** 2).sum(axis=1)
    tolerance = vector_tolerance * float(np.sqrt(square_N.mean())) if len(square_N) else 0.0
    reasons: dict[int, list[str]] = {}
    rows_C = members(codes_NQ[:, 0], item_ids_N, first_level_codes)
    for code, (old, rows) in enumerate(zip(parent.lists, rows_C, strict=True)):
        why = []
        held = old.packed()
        order = np.argsort(held.item_ids)
        if not np.array_equal(held.item_ids[order], item_ids_N[rows]):
            why.append("membership")
        elif not _furthest(held.vectors[order], vectors_ND[rows]) <= tolerance:
            why.append("vectors")
        if drift.drift_C[code] > drift_threshold:
            why.append("drift")
        if why:
            reasons[code] = why
    drifted = [code for code, why in reasons.items() if why == ["drift"]]
    drifted.sort(key=lambda code: -float(drift.drift_C[code] * drift.weight_C[code]))
    deferred = tuple(sorted(drifted[drift_rebuilds:])) if drift_rebuilds is not None else ()
    for code in deferred:
        del reasons[code]
    changed = {
        code: CodeList.of(item_ids_N[rows], seconds(codes_NQ[rows]), vectors_ND[rows])
        for code, rows in enumerate(rows_C)
        if code in reasons
    }
    return Rebuild(parent.replaced(changed), reasons, deferred)


def _furthest(old_nD: NDArray[np.float32], new_nD: NDArray[np.float32]) -> float:
    return float(np.sqrt(((new_nD - old_nD) ** 2).sum(axis=1).max(initial=0)))
