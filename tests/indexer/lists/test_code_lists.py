from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from indexer.errors import IndexerError, SnapshotError
from indexer.lists.code_lists import CodeLists, file_name

C, D = 5, 4


def make(items: int = 40, seed: int = 0) -> tuple[CodeLists, dict[int, tuple[int, np.ndarray]]]:
    rng = np.random.default_rng(seed)
    ids = rng.choice(10_000, items, replace=False)
    codes, vectors = rng.integers(0, C, items), rng.normal(size=(items, D)).astype(np.float32)
    known = {int(i): (int(c), v) for i, c, v in zip(ids, codes, vectors, strict=True)}
    return CodeLists.build(ids, codes, vectors, C), known


def content(lists: CodeLists) -> dict[int, tuple[int, bytes]]:
    return {
        int(i): (code, v.tobytes())
        for code, one in enumerate(lists.lists)
        for i, v in zip(*one.packed(), strict=True)
    }


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(0, 60), st.integers(0, 30))
def test_lists_hold_what_was_put_in_whatever_the_order(seed, items, more):
    lists, known = make(items, seed)
    rng = np.random.default_rng(seed + 1)
    ids = rng.choice(list(known) + list(range(20_000, 20_030)), more, replace=False)
    codes, vectors = rng.integers(0, C, more), rng.normal(size=(more, D)).astype(np.float32)
    before = content(lists)
    appended = lists.with_items(ids.astype(np.int64), codes, vectors)
    known |= {int(i): (int(c), v) for i, c, v in zip(ids, codes, vectors, strict=True)}
    assert content(appended) == {i: (c, v.tobytes()) for i, (c, v) in known.items()}
    assert content(lists) == before
    asked = np.array([*known, 999_999], np.int64)
    codes_found, rows = appended.locate(asked)
    for item, code, row in zip(asked[:-1], codes_found, rows, strict=False):
        assert code == known[int(item)][0]
        assert appended.lists[code].item_ids[row] == item
    assert codes_found[-1] == rows[-1] == -1


def test_appending_shares_the_lists_of_the_other_codes():
    lists, _ = make()
    appended = lists.with_items(np.array([77_777]), np.array([2]), np.ones((1, D), np.float32))
    assert [a is b for a, b in zip(lists.lists, appended.lists, strict=True)] == [
        True,
        True,
        False,
        True,
        True,
    ]


def test_lists_that_grow_from_the_same_one_do_not_see_each_others_items():
    lists, known = make()
    one = np.ones((1, D), np.float32)
    left = lists.with_items(np.array([70_000]), np.array([2]), one)
    right = lists.with_items(np.array([80_000]), np.array([2]), 2 * one)
    further = left.with_items(np.array([60_000]), np.array([2]), 3 * one)
    assert 70_000 not in content(lists) and 70_000 not in content(right)
    assert content(right) == content(lists) | {80_000: (2, (2 * one).tobytes())}
    assert content(further) == content(left) | {60_000: (2, (3 * one).tobytes())}
    np.testing.assert_array_equal(
        further.vectors_of(np.array([60_000, 70_000])), [[3] * D, [1] * D]
    )


def test_a_list_grows_without_copying_what_it_held():
    lists, _ = make(400)
    for n in range(40):
        grown = lists.with_items(np.array([20_000 + n]), np.array([2]), np.ones((1, D), np.float32))
        shared = np.shares_memory(grown.lists[2].vectors, lists.lists[2].vectors)
        lists = grown
    assert shared and len(lists) == 440


def test_items_leave_a_list_without_a_copy_until_many_are_gone():
    lists, known = make(400)
    first, copied = content(lists), 0
    for n in range(60):
        ids = np.random.default_rng(n).choice(list(known), 8, replace=False)
        codes, vectors = (ids + n) % C, np.full((8, D), n, np.float32)
        before, lists = lists, lists.with_items(ids, codes, vectors)
        known |= {int(i): (int(c), v) for i, c, v in zip(ids, codes, vectors, strict=True)}
        assert content(lists) == {i: (c, v.tobytes()) for i, (c, v) in known.items()}
        for old, new in zip(before.lists, lists.lists, strict=True):
            copied += not np.shares_memory(old.vectors, new.vectors)
            assert len(new.removed) <= 0.25 * len(new.item_ids)
        asked = np.array(sorted(known))
        codes_found, rows = lists.locate(asked)
        assert all(
            lists.lists[c].item_ids[r] == i
            for i, c, r in zip(asked, codes_found, rows, strict=True)
        )
        np.testing.assert_array_equal(np.sort(lists.item_ids_N[lists.item_ids_N >= 0]), asked)
    assert content(CodeLists.build(*_arrays(first), C)) == first
    assert 0 < copied < 60


def _arrays(held: dict[int, tuple[int, bytes]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    codes = np.array([code for code, _ in held.values()])
    vectors = np.stack([np.frombuffer(v, np.float32) for _, v in held.values()])
    return np.array(list(held)), codes, vectors


def test_lists_with_rows_that_are_gone_are_written_without_them(tmp_path):
    lists, known = make()
    some = np.array(sorted(known))[:6]
    lists = lists.with_items(some, (lists.locate(some)[0] + 1) % C, np.ones((6, D), np.float32))
    assert any(len(one.removed) for one in lists.lists)
    lists.write(tmp_path)
    assert content(CodeLists.load(tmp_path, C, D)) == content(lists)


def test_written_lists_load_equal_and_linked_files_are_the_same_file(tmp_path):
    lists, _ = make()
    lists.write(tmp_path / "a")
    assert content(CodeLists.load(tmp_path / "a", C, D)) == content(lists)
    lists.write(tmp_path / "b", [1, 3], tmp_path / "a")
    same = [
        (tmp_path / "a" / file_name(c)).samefile(tmp_path / "b" / file_name(c)) for c in range(C)
    ]
    assert same == [False, True, False, True, False]
    for c in range(C):  # equal content is equal bytes, so digests can be compared
        assert (tmp_path / "a" / file_name(c)).read_bytes() == (
            tmp_path / "b" / file_name(c)
        ).read_bytes()


def test_a_searched_list_cannot_be_changed():
    lists, _ = make()
    with pytest.raises(ValueError, match="read-only"):
        lists.lists[0].vectors[0, 0] = 1.0
    with pytest.raises(ValueError, match="read-only"):
        lists.lists[0].item_ids[0] = 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_not_finite_is_refused_by_name_of_its_item(bad):
    vectors = np.ones((3, D), np.float32)
    vectors[1, 2] = bad
    with pytest.raises(IndexerError, match="item 20 is not finite"):
        CodeLists.build(np.array([10, 20, 30]), np.zeros(3, int), vectors, C)


def test_duplicate_ids_are_refused_within_a_list_and_across_lists():
    vectors = np.ones((2, D), np.float32)
    with pytest.raises(IndexerError, match="item 7 is there more than once"):
        CodeLists.build(np.array([7, 7]), np.array([1, 1]), vectors, C)
    with pytest.raises(IndexerError, match="item 7 is in two lists"):
        CodeLists.build(np.array([7, 7]), np.array([1, 2]), vectors, C)
    with pytest.raises(IndexerError, match="item 7 is there more than once"):
        make()[0].with_items(np.array([7, 7]), np.array([1, 2]), vectors)


def test_codes_out_of_range_and_shapes_that_do_not_fit_are_refused():
    vectors = np.ones((2, D), np.float32)
    with pytest.raises(IndexerError, match="item 8 has a code outside 0..4"):
        CodeLists.build(np.array([7, 8]), np.array([1, 5]), vectors, C)
    with pytest.raises(IndexerError, match="the lists have dimension 4"):
        make()[0].with_items(np.array([1]), np.array([0]), np.ones((1, 3), np.float32))


def _spoil(tensors: dict[str, np.ndarray], how: str) -> dict[str, np.ndarray]:
    ids, vectors = tensors["item_ids"], tensors["vectors"].copy()
    if how == "nan":
        vectors[0, 0] = np.nan
    return {
        "nan": {"item_ids": ids, "vectors": vectors},
        "twice": {"item_ids": np.repeat(ids[:1], len(ids)), "vectors": vectors},
        "short": {"item_ids": ids[:-1], "vectors": vectors},
        "dimension": {"item_ids": ids, "vectors": np.ones((len(ids), 9), np.float32)},
        "retyped": {"item_ids": ids, "vectors": vectors.astype(np.float64)},
        "renamed": {"ids": ids, "vectors": vectors},
    }[how]


@pytest.mark.parametrize("how", ["nan", "twice", "short", "dimension", "retyped", "renamed"])
def test_a_list_file_with_bad_content_is_refused_by_name(tmp_path, how):
    lists, _ = make()
    lists.write(tmp_path)
    one = lists.lists[2]
    spoilt = _spoil({"item_ids": np.array(one.item_ids), "vectors": np.array(one.vectors)}, how)
    save_file(spoilt, tmp_path / file_name(2))
    with pytest.raises(SnapshotError, match=r"00002\.safetensors"):
        CodeLists.load(tmp_path, C, D)


def test_a_file_that_declares_an_absurd_size_is_refused_before_it_is_allocated(tmp_path):
    lists, _ = make()
    lists.write(tmp_path)
    header = (
        b'{"item_ids":{"dtype":"I64","shape":[1099511627776],"data_offsets":[0,8796093022208]}}'
    )
    (tmp_path / file_name(0)).write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(SnapshotError):
        CodeLists.load(tmp_path, C, D)
