from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.histories import NO_ROW
from model.tables import row_index
from model.tables.catalogue import Catalogue
from model.tables.item_features import TITLE_BUCKETS, bucket, hash_features
from model.tables.row_index import RowIndex
from streaming.items import Item

WORDS = st.sampled_from(["red", "green", "blue", "", "matte lipstick", "red red"])
ITEMS = st.builds(
    lambda i, a, b, c: Item(i, f"{a} {b}", c),
    st.integers(-3, 12),
    WORDS,
    WORDS,
    st.sampled_from(["", "0", "Lips"]),
)


@given(st.lists(st.lists(ITEMS, max_size=9), max_size=6))
def test_it_holds_the_last_listing_of_each_item_in_order_of_the_first(
    batches: list[list[Item]],
) -> None:
    catalogue, listed = Catalogue(), dict[int, Item]()
    for batch in batches:
        before = len(listed)
        for item in batch:
            listed[item.item_id] = item
        assert len(catalogue.add(batch)) == len(listed) - before
    assert catalogue.item_ids_N.tolist() == list(listed)
    wanted = hash_features(list(listed.values()))
    assert np.array_equal(catalogue.words_NT, wanted.words_NT)
    assert np.array_equal(catalogue.category_N, wanted.category_N)
    for word in ("red", "matte"):
        having = sum(word in item.title.split() for item in listed.values())
        idf = np.log(max(len(listed), 1) / max(having, 1)) + 1
        assert catalogue.idf_W[bucket(word, TITLE_BUCKETS)] == pytest.approx(idf)


@given(
    st.lists(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 9), max_size=9)),
    st.integers(1, 5),
)
def test_a_row_index_is_a_dictionary(batches: list[list[int]], merge_at: int) -> None:
    index, expected = RowIndex(), dict[int, int]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_index, "MERGE_AT", merge_at)
        for ids in batches:
            rows = index.add(np.array(ids, np.int64))
            assert rows.tolist() == [expected.setdefault(i, len(expected)) for i in ids]
            asked = np.array([[*ids, 7, -(2**63)]], np.int64)
            wanted = [[expected.get(i, NO_ROW) for i in asked[0].tolist()]]
            assert index.rows(asked).tolist() == wanted
    assert index.ids_N.tolist() == list(expected)


IDS = st.lists(st.integers(0, 30), max_size=9)


@given(st.lists(st.tuples(IDS, IDS), max_size=8), st.integers(1, 5))
def test_a_row_index_gives_freed_rows_again_the_lowest_first(
    steps: list[tuple[list[int], list[int]]], merge_at: int
) -> None:
    index, expected, most = RowIndex(), dict[int, int](), 0
    copy = RowIndex()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_index, "MERGE_AT", merge_at)
        for came, went in steps:
            for one in came:
                if one not in expected:
                    taken = set(expected.values())
                    expected[one] = next(row for row in range(99) if row not in taken)
            assert index.add(np.array(came, np.int64)).tolist() == [expected[i] for i in came]
            most = max(most, len(expected))
            freed = sorted(expected.pop(i) for i in set(went) if i in expected)
            assert index.remove(np.array(went, np.int64)).tolist() == freed
            copy.put(np.arange(len(index)), index.ids_N)
            for one in (index, copy):
                known = one.rows(np.arange(31)).tolist()
                assert known == [expected.get(i, NO_ROW) for i in range(31)]
                assert (len(one), one.count) == (most, len(expected))


def test_what_is_forgotten_has_no_words_any_more() -> None:
    catalogue = Catalogue()
    catalogue.add([Item(1, "red soap"), Item(2, "soap"), Item(3, "oil")])
    assert catalogue.forget(np.array([2, 9])).tolist() == [1]
    assert catalogue.item_rows.tolist() == [0, 2] and catalogue.free == 1
    left = Catalogue()
    left.add([Item(1, "red soap"), Item(3, "oil")])
    assert np.array_equal(catalogue.idf_W, left.idf_W)
    assert catalogue.add([Item(4, "balm"), Item(3, "oil")]).tolist() == [1]
    assert catalogue.item_ids_N.tolist() == [1, 4, 3]
