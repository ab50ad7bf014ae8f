"""What is published of the items: segments of rows that changed, and the newest state over them.

A publication says of an item only what changed since the one before: its place z and its codes, if
they moved; its counts, if it had an event; its neighbours, if they did. A `Segment` holds this
(`segment.py`): a *base* speaks of every item, a *delta* of a few. `ItemSegments` is what a reader
knows after some segments in order. It copies no z: where the newest row of an item lies is noted,
and files are memory-mapped, so that processes share them.

A row whose item is forgotten is free until it is another item's.

Shapes: N rows of the catalogue; n items with a place, k with neighbours, P neighbours of all of
these; E items that are asked about, M neighbours of each; D dimension of z, Q levels, H half-lives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.artifacts.chain import Chain, is_full
from model.artifacts.manifest import Manifest
from model.histories import NO_ROW
from model.retrieval.item_counts import ItemCounts
from model.retrieval.segment import Rows, Segment, SegmentError
from model.tables.cooccurrence import Slots
from model.tables.row_index import NO_ITEM


@dataclass(frozen=True)
class ItemSegments:
    """The newest state of every item over some segments; immutable, to be shared by threads.

    Attributes:
        segments: in order, oldest first.
        ids_N: int64 item ids by row, `NO_ITEM` where it is free.
        codes_NQ: int16, -1 where the row is free.
        counts: of the items that had events.
    """

    segments: tuple[Segment, ...]
    ids_N: Rows
    codes_NQ: NDArray[np.int16]
    counts: ItemCounts
    _z_segment_N: NDArray[np.int16]
    _z_at_N: NDArray[np.int32]
    _near_segment_N: NDArray[np.int16]
    _near_at_N: NDArray[np.int32]
    _sorted_ids_N: Rows
    _order_N: NDArray[np.int32]

    @classmethod
    def of(cls, segments: Sequence[Segment]) -> ItemSegments:
        """From a base and the deltas after it.

        Raises:
            SegmentError: if they do not fit each other.
        """
        if not segments:
            raise SegmentError("there is no segment: a base is needed")
        nothing = np.empty(0, np.int64)
        first = segments[0]
        state = cls(
            (), nothing, np.empty((0, first.codes_nQ.shape[1]), np.int16),
            ItemCounts.none(first.counts_mH.shape[1]), np.empty(0, np.int16), np.empty(0, np.int32),
            np.empty(0, np.int16), np.empty(0, np.int32), nothing, np.empty(0, np.int32),
        )  # fmt: skip
        for segment in segments:
            state = state.with_segment(segment)
        return state

    @classmethod
    def load(
        cls, directory: Path, manifest: Manifest, held: tuple[Manifest, ItemSegments] | None = None
    ) -> ItemSegments:
        """What a published directory whose digests were verified says of the items.

        Args:
            directory: a handover or a snapshot.
            manifest: of it.
            held: the manifest of another, and what that says: its segments are not read again, and
                where the one is a continuation of the other, only what follows is looked at.

        Raises:
            ManifestError: if it names no segments.
            SegmentError: if a segment is malformed, or they do not fit each other.
        """
        chain = Chain.of(directory, manifest)
        digests = [chain.digests[name] for name in chain.names]
        known: dict[str, Segment] = {}
        state: ItemSegments | None = None
        if held is not None:
            before = Chain.of(directory, held[0])
            loaded = [before.digests[name] for name in before.names]
            known = dict(zip(loaded, held[1].segments, strict=True))
            if digests[: len(loaded)] == loaded:
                state = held[1]
        start = len(state.segments) if state is not None else 0
        segments = [
            known[digest] if digest in known else Segment.load(path)
            for digest, path in zip(digests[start:], chain.paths()[start:], strict=True)
        ]
        if state is None:
            return cls.of(segments)
        for segment in segments:
            state = state.with_segment(segment)
        return state

    def __len__(self) -> int:
        """Rows, free ones among them."""
        return len(self.ids_N)

    @property
    def count(self) -> int:
        """Items."""
        return len(self._sorted_ids_N)

    @property
    def item_rows(self) -> Rows:
        """Rows that hold an item, ascending."""
        if self.count == len(self):
            return np.arange(len(self))
        return np.flatnonzero(self.ids_N != NO_ITEM)

    @property
    def events_N(self) -> Rows:
        """Int64 by row, how many events each item had; made anew each time."""
        return self.counts.events_N(len(self))

    @property
    def dimension(self) -> int:
        """D of z."""
        return int(self.segments[0].z_nD.shape[1])

    @property
    def dead_rows(self) -> int:
        """Rows of z in the segments that a newer segment has replaced."""
        return sum(len(segment.rows_n) for segment in self.segments) - self.count

    def with_segment(self, segment: Segment) -> ItemSegments:
        """What is known after one more segment; the arrays that it says nothing of are shared.

        Raises:
            SegmentError: if it leaves a gap in the rows, changes the id of one that is neither free
                nor gone, or is of another dimension.
        """
        before = len(self)
        rows, gone = segment.rows_n, segment.gone_rows_g
        named = np.union1d(rows, gone)
        size = max(before, int(named[-1]) + 1 if len(named) else 0)
        if len(named) - int(np.searchsorted(named, before)) != size - before:
            raise SegmentError(f"the segment leaves a gap between rows {before} and {size}")
        left = gone[: np.searchsorted(gone, before)]
        if not np.array_equal(self.ids_N[left], segment.gone_ids_g[: len(left)]):
            raise SegmentError("the segment says that items are gone that are not there")
        held = self._freed(left)
        old = rows[: np.searchsorted(rows, before)]
        other = held.ids_N[old] != segment.ids_n[: len(old)]
        if (held.ids_N[old[other]] != NO_ITEM).any():
            raise SegmentError("the segment gives a row to another item")
        return held._with(segment, size, anew=size > before or bool(len(left) or other.any()))

    def _freed(self, rows_g: Rows) -> ItemSegments:
        """The same with rows that are free."""
        if not len(rows_g):
            return self
        changed: dict[str, Any] = {"counts": self.counts.without(rows_g)}
        for name, empty in (
            ("ids_N", NO_ITEM), ("codes_NQ", -1), ("_z_segment_N", -1), ("_near_segment_N", -1)
        ):  # fmt: skip
            changed[name] = getattr(self, name).copy()
            changed[name][rows_g] = empty
        return replace(self, **changed)

    def _with(self, segment: Segment, size: int, anew: bool) -> ItemSegments:
        """`with_segment`, once rows are free; `anew`: items came or went."""
        before, index, rows = len(self), len(self.segments), segment.rows_n
        if index:
            own = (self.dimension, self.codes_NQ.shape[1], self.counts.counts_eH.shape[1])
            theirs = tuple(x.shape[1] for x in (segment.z_nD, segment.codes_nQ, segment.counts_mH))
            if own != theirs:
                raise SegmentError(f"the segment has sizes {theirs}, those before it {own}")
        for name in ("event_rows_m", "near_rows_k"):
            said = getattr(segment, name)
            if len(said) and said[-1] >= size:
                raise SegmentError(f"{name} names row {said[-1]} of {size}")
        if len(segment.near_items_P) and segment.near_items_P.max() >= size:
            raise SegmentError(f"near_items_P names row {segment.near_items_P.max()} of {size}")
        changed: dict[str, Any] = {"segments": (*self.segments, segment)}

        def put(name: str, at: Rows, values: Any, empty: Any) -> None:
            if not len(at) and size == before:
                return
            old = getattr(self, name)
            column = np.empty((size, *old.shape[1:]), old.dtype)
            column[:before], column[before:] = old, empty
            column[at] = values
            changed[name] = column

        put("ids_N", rows, segment.ids_n, NO_ITEM)
        put("codes_NQ", rows, segment.codes_nQ, -1)
        put("_z_segment_N", rows, index, -1)
        put("_z_at_N", rows, np.arange(len(rows)), 0)
        near = segment.near_rows_k
        changed["counts"] = self.counts.followed_by(
            segment.event_rows_m, segment.events_m, segment.counts_mH, segment.count_times_m
        )
        put("_near_segment_N", near, index, -1)
        put("_near_at_N", near, np.arange(len(near)), 0)
        if anew:
            ids_N = changed.get("ids_N", self.ids_N)
            order = np.argsort(ids_N, kind="stable").astype(np.int32)
            order = order[np.count_nonzero(ids_N == NO_ITEM) :]
            sorted_ids = ids_N[order]
            same = sorted_ids[1:] == sorted_ids[:-1]
            if same.any():
                raise SegmentError(f"item {sorted_ids[1:][same][0]} has two rows")
            changed |= {"_order_N": order, "_sorted_ids_N": sorted_ids}
        else:
            changed.pop("ids_N", None)
        return replace(self, **changed)

    def followed_by(self, segment: Segment) -> ItemSegments:
        """What is known after one more segment, in a chain that is no longer than it may be.

        Raises:
            SegmentError: as `with_segment`.
        """
        after = self.with_segment(segment)
        if is_full([one.nbytes for one in self.segments], segment.nbytes):
            return ItemSegments.of([after.as_base()])
        return after

    def as_base(self) -> Segment:
        """One segment that says all that these say: what begins a chain anew."""
        rows_n, near_k = self.item_rows, np.flatnonzero(self._near_segment_N >= 0)
        free_g = np.flatnonzero(self.ids_N == NO_ITEM)
        counts, had = self.counts, self.counts.events_e > 0
        words_nT, category_n = self.features(rows_n)
        lengths_k, times_k = np.zeros(len(near_k), np.int64), np.zeros(len(near_k), np.int64)
        parts = []
        for s in np.unique(self._near_segment_N[near_k]).tolist():
            segment, here = self.segments[s], np.flatnonzero(self._near_segment_N[near_k] == s)
            at = self._near_at_N[near_k[here]]
            lengths_k[here] = segment.near_starts_K[at + 1] - segment.near_starts_K[at]
            times_k[here] = segment.near_times_k[at]
            parts.append((segment, here, segment.near_starts_K[at]))
        starts_K = np.append(0, np.cumsum(lengths_k))
        P, H = int(starts_K[-1]), self.segments[0].near_weights_PH.shape[1]
        items_P, weights_PH = np.empty(P, np.int32), np.empty((P, H), np.float32)
        for segment, here, first_k in parts:
            to_P, from_P = _spans(starts_K[here], lengths_k[here]), _spans(first_k, lengths_k[here])
            items_P[to_P] = segment.near_items_P[from_P]
            weights_PH[to_P] = segment.near_weights_PH[from_P]
        return Segment(
            rows_n=rows_n,
            ids_n=self.ids_N[rows_n],
            z_nD=self.z(rows_n),
            codes_nQ=self.codes_NQ[rows_n],
            words_nT=words_nT.astype(np.int16),
            category_n=category_n.astype(np.int16),
            event_rows_m=counts.rows_e[had].astype(np.int64),
            events_m=counts.events_e[had],
            counts_mH=counts.counts_eH[had],
            count_times_m=counts.times_e[had],
            near_rows_k=near_k,
            near_starts_K=starts_K,
            near_items_P=items_P,
            near_weights_PH=weights_PH,
            near_times_k=times_k,
            gone_rows_g=free_g,
            gone_ids_g=np.full(len(free_g), NO_ITEM),
        )

    def rows(self, ids: NDArray[np.integer]) -> Rows:
        """Catalogue rows of ids, in their shape; `NO_ROW` where unknown."""
        if not self.count:
            return np.full(ids.shape, NO_ROW, np.int64)
        place = np.searchsorted(self._sorted_ids_N, ids).clip(max=self.count - 1)
        known = self._sorted_ids_N[place] == ids
        return np.where(known, self._order_N[place], NO_ROW).astype(np.int64)

    def z(self, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """Places (..., D) of rows; zeros for `NO_ROW`."""
        flat = np.ravel(rows)
        found = np.zeros((len(flat), self.dimension), np.float32)
        index = np.where(flat >= 0, self._z_segment_N[flat], -1) if len(self) else flat * 0 - 1
        for segment in np.unique(index).tolist():
            if segment >= 0:
                here = index == segment
                found[here] = self.segments[segment].z_nD[self._z_at_N[flat[here]]]
        return found.reshape(*np.shape(rows), self.dimension)

    def features(self, rows: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Hashed words (n, T) and category (n,) that the places of these rows are made of."""
        T = self.segments[0].words_nT.shape[1]
        words_nT, category_n = np.zeros((len(rows), T), np.int64), np.zeros(len(rows), np.int64)
        index = self._z_segment_N[rows]
        for segment in np.unique(index).tolist():
            here = index == segment
            at = self._z_at_N[rows[here]]
            words_nT[here] = self.segments[segment].words_nT[at]
            category_n[here] = self.segments[segment].category_n[at]
        return words_nT, category_n

    def slots(self, rows_E: NDArray[np.integer]) -> Slots:
        """Neighbours of items; see `model.tables.cooccurrence.Slots`."""
        rows_E = np.asarray(rows_E, np.int64)
        index_E, at_E = self._near_segment_N[rows_E], self._near_at_N[rows_E]
        H = self.segments[0].near_weights_PH.shape[1]
        lengths_E, starts_E = np.zeros(len(rows_E), np.int64), np.zeros(len(rows_E), np.int64)
        times_E = np.zeros(len(rows_E), np.int64)
        there = [(s, index_E == s) for s in np.unique(index_E).tolist() if s >= 0]
        for s, here in there:
            segment, at = self.segments[s], at_E[here]
            starts_E[here] = segment.near_starts_K[at]
            lengths_E[here] = segment.near_starts_K[at + 1] - segment.near_starts_K[at]
            times_E[here] = segment.near_times_k[at]
        width = int(lengths_E.max(initial=0))
        slot_M = np.arange(width)
        rows_EM = np.full((len(rows_E), width), NO_ROW, np.int32)
        weights_EMH = np.zeros((len(rows_E), width, H), np.float32)
        for s, here in there:
            filled = here[:, None] & (slot_M < lengths_E[:, None])
            at_P = (starts_E[:, None] + slot_M)[filled]
            rows_EM[filled] = self.segments[s].near_items_P[at_P]
            weights_EMH[filled] = self.segments[s].near_weights_PH[at_P]
        return Slots(rows_EM, weights_EMH, times_E)


def _spans(starts_k: Rows, lengths_k: Rows) -> Rows:
    """The numbers of several ranges, one behind the other."""
    ends_k = np.cumsum(lengths_k)
    return np.repeat(starts_k - (ends_k - lengths_k), lengths_k) + np.arange(lengths_k.sum())
