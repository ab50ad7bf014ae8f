"""Small segments of items."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model.histories import NO_ROW
from model.retrieval.segment import Segment


def segment(
    ids: Sequence[int],
    rows: Sequence[int] | None = None,
    *,
    counted: Sequence[int] = (),
    near: dict[int, list[int]] | None = None,
    gone: dict[int, int] | None = None,
    dimension: int = 4,
    seed: int = 0,
) -> Segment:
    """Places of items, counts of some rows, neighbours of some; drawn from the seed.

    `gone`: row -> the item that was in it.
    """
    rng = np.random.default_rng(seed)
    n, m, near = len(ids), len(counted), near or {}
    slots = [slot for row in sorted(near) for slot in near[row]]
    return Segment(
        rows_n=np.array(range(n) if rows is None else rows, np.int64),
        ids_n=np.array(ids, np.int64),
        z_nD=rng.normal(size=(n, dimension)).astype(np.float32),
        codes_nQ=rng.integers(0, 4, (n, 3)).astype(np.int16),
        words_nT=rng.integers(0, 9, (n, 5)).astype(np.int16),
        category_n=rng.integers(0, 9, n).astype(np.int16),
        event_rows_m=np.array(counted, np.int64),
        events_m=rng.integers(1, 9, m),
        counts_mH=rng.random((m, 2)),
        count_times_m=rng.integers(0, 9, m),
        near_rows_k=np.array(sorted(near), np.int64),
        near_starts_K=np.cumsum([0, *(len(near[row]) for row in sorted(near))]),
        near_items_P=np.array(slots, np.int32).reshape(-1),
        near_weights_PH=rng.random((len(slots), 2)).astype(np.float32)
        * (np.array(slots) != NO_ROW).reshape(-1, 1),
        near_times_k=rng.integers(0, 9, len(near)),
        gone_rows_g=np.array(sorted(gone or {}), np.int64),
        gone_ids_g=np.array([one for _, one in sorted((gone or {}).items())], np.int64),
    )
