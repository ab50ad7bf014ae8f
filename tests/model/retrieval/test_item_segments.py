from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model.histories import NO_ROW
from model.retrieval.item_segments import ItemSegments
from model.retrieval.segment import Segment, SegmentError
from model.tables.row_index import NO_ITEM
from tests.model.retrieval.item_segment import segment


def test_the_newest_segment_says_where_an_item_lies() -> None:
    base = segment([50, 7, 30, 90], near={1: [2, NO_ROW, 3]}, counted=[1])
    delta = segment([7, 11], [1, 4], near={4: [0], 1: [0, 2]}, counted=[0, 4], seed=1)
    before = ItemSegments.of([base])
    items = before.with_segment(delta)
    assert (len(before), len(items), items.dead_rows) == (4, 5, 1)
    assert items.rows(np.array([11, 90, 8, 50])).tolist() == [4, 3, NO_ROW, 0]
    want = np.stack([base.z_nD[0], delta.z_nD[0], base.z_nD[2], base.z_nD[3], delta.z_nD[1]])
    assert np.array_equal(items.z(np.arange(5)), want)
    assert np.array_equal(items.z(np.array([[1, NO_ROW]]))[0, 1], np.zeros(4))
    assert np.array_equal(before.z(np.array([1])), base.z_nD[1:2])  # is as it was
    assert np.array_equal(items.codes_NQ[[1, 4]], delta.codes_nQ)
    words_nT, category_n = items.features(np.array([2, 4]))
    assert np.array_equal(words_nT, [base.words_nT[2], delta.words_nT[1]])
    assert category_n.tolist() == [base.category_n[2], delta.category_n[1]]
    slots = items.slots(np.array([1, 0, 4]))
    assert slots.rows_EM.tolist() == [[0, 2], [NO_ROW, NO_ROW], [0, NO_ROW]]
    assert np.array_equal(slots.weights_EMH[2, 0], delta.near_weights_PH[2])
    rows_e, prior_eP = items.counts.prior((1.0, 2.0), 10)
    assert rows_e.tolist() == [0, 1, 4] and prior_eP.shape == (3, 2)


def test_segments_in_order_give_what_one_whole_segment_gives(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    items = ItemSegments.of([segment(range(100, 200), counted=range(0, 100, 3), near={5: [1]})])
    for n in range(5):
        size = len(items)
        rows = [*np.flatnonzero(rng.random(size) < 0.2).tolist(), size, size + 1]
        ids = [100 + row for row in rows]
        near = {row: rng.integers(0, size, 3).tolist() for row in rows[::3]}
        delta = segment(ids, rows, counted=rows[::2], near=near, seed=n + 1)
        delta.save(tmp_path / f"{n}.safetensors")
        items = items.with_segment(Segment.load(tmp_path / f"{n}.safetensors"))
    every = np.arange(len(items))
    slots = items.slots(every)
    there = slots.rows_EM != NO_ROW
    near_k = np.flatnonzero(there.any(axis=1))
    counts = items.counts
    assert np.array_equal(counts.rows_e, np.flatnonzero(items.events_N))
    assert np.array_equal(counts.events(every), items.events_N)
    words_nT, category_n = items.features(every)
    whole = Segment(
        every, items.ids_N, items.z(every), items.codes_NQ, words_nT.astype(np.int16),
        category_n.astype(np.int16), counts.rows_e.astype(np.int64), counts.events_e,
        counts.counts_eH, counts.times_e, near_k,
        np.append(0, np.cumsum(there[near_k].sum(axis=1))), slots.rows_EM[there],
        slots.weights_EMH[there], slots.times_E[near_k],
    )  # fmt: skip
    other = ItemSegments.of([whole])
    assert np.array_equal(other.z(every), items.z(every))
    assert np.array_equal(other.codes_NQ, items.codes_NQ)
    for one, two in zip(
        other.counts.prior((1.0, 2.0), 9), items.counts.prior((1.0, 2.0), 9), strict=True
    ):
        assert np.array_equal(one, two)
    for one, two in zip(other.slots(every), slots, strict=True):
        assert np.array_equal(one, two)


def test_a_row_changes_its_item_and_a_base_drops_what_is_gone(tmp_path: Path) -> None:
    base = segment([10, 11, 12, 13], counted=[1, 2], near={1: [2], 2: [1]})
    items = ItemSegments.of([base]).with_segment(
        segment([10, 14], [0, 1], gone={1: 11, 2: 12, 4: NO_ITEM}, near={1: []}, seed=1)
    )
    assert items.ids_N.tolist() == [10, 14, NO_ITEM, 13, NO_ITEM] and items.count == 3
    assert items.rows(np.array([11, 12, 13, 14, NO_ITEM])).tolist() == [-1, -1, 3, 1, -1]
    assert items.counts.rows_e.tolist() == [] and (items.z(np.array([2])) == 0).all()
    assert (items.slots(np.arange(5)).rows_EM == NO_ROW).all()
    path = tmp_path / "base.safetensors"
    items.as_base().save(path)
    packed = ItemSegments.of([Segment.load(path)])
    assert packed.dead_rows == 0 and packed.item_rows.tolist() == [0, 1, 3]
    again = segment([15, 16], [2, 4], gone={3: 13}, seed=2)
    for one in (items.with_segment(again), packed.with_segment(again)):
        assert one.ids_N.tolist() == [10, 14, 15, NO_ITEM, 16]
        assert one.rows(np.array([16, 15, 13])).tolist() == [4, 2, -1]
        assert np.array_equal(one.z(np.array([2, 4])), again.z_nD)


@pytest.mark.parametrize(
    ("delta", "words"),
    [
        (segment([9], [5]), "gap between rows 3 and 6"),
        (segment([9], [1]), "another item"),
        (segment([], [], gone={1: 3}), "gone that are not there"),
        (segment([1], [3]), "item 1 has two rows"),
        (segment([9], [3], counted=[4]), "names row 4 of 4"),
        (segment([9], [3], near={0: [7]}), "names row 7 of 4"),
        (segment([9], [3], dimension=5), "sizes"),
    ],
)
def test_a_segment_that_does_not_follow_is_refused(delta: Segment, words: str) -> None:
    with pytest.raises(SegmentError, match=words):
        ItemSegments.of([segment([1, 2, 3])]).with_segment(delta)


def test_a_malformed_file_is_refused_by_name(tmp_path: Path) -> None:
    sound = segment([1, 2, 3], near={0: [1]})
    path = tmp_path / "items.safetensors"
    nan = sound.z_nD.copy()
    nan[1] = np.nan
    assert sound._replace(z_nD=nan).flaw() == "z_nD holds NaN or infinity"
    for broken, words in [
        (sound._replace(rows_n=sound.rows_n[::-1]), "rows_n do not ascend"),
        (sound._replace(events_m=np.array([1])), "events_m has 1 rows, not 0"),
        (sound._replace(near_starts_K=np.array([0, 2])), "near_starts_K do not span"),
        (sound._replace(z_nD=sound.z_nD.astype(np.float64)), "z_nD is torch.float64"),
    ]:
        broken.save(path)
        with pytest.raises(SegmentError, match=f"{path.name}: {words}"):
            Segment.load(path)
    path.write_bytes(b"nothing")
    with pytest.raises(SegmentError, match="not readable"):
        Segment.load(path)
    with pytest.raises(SegmentError, match="a base is needed"):
        ItemSegments.of([])
