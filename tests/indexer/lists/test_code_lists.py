from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from indexer.errors import IndexerError, SnapshotError
from indexer.lists import cells as cells_module
from indexer.lists.cells import open_rows
from indexer.lists.code_list import CodeList
from indexer.lists.code_lists import CodeLists, file_name

C, D = 5, 4
Known = dict[int, tuple[int, int, bytes]]


def drawn(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Codes of three levels and vectors."""
    vectors = rng.normal(size=(count, D)).astype(np.float32)
    return rng.integers(0, C, (count, 3)), vectors


def known_of(ids: np.ndarray, codes: np.ndarray, vectors: np.ndarray) -> Known:
    return {
        int(i): (int(c[0]), int(c[1]), v.tobytes())
        for i, c, v in zip(ids, codes, vectors, strict=True)
    }


def make(items: int = 40, seed: int = 0) -> tuple[CodeLists, Known]:
    rng = np.random.default_rng(seed)
    ids = rng.choice(10_000, items, replace=False)
    codes, vectors = drawn(items, rng)
    return CodeLists.build(ids, codes, vectors, C), known_of(ids, codes, vectors)


def content(lists: CodeLists) -> Known:
    """What the rows hold, each with its list's number; checks what else the rows must be."""
    found = {}
    for code, one in enumerate(lists.lists):
        present = one.present_ids
        for rows in (*one.blocks, one.packed()):
            keys = np.stack([rows.seconds, rows.item_ids])
            assert (np.lexsort(keys[::-1]) == np.arange(len(rows))).all()
            assert len(rows.means) == len(rows.starts) - 1
            for a, b, mean in zip(rows.starts, rows.starts[1:], rows.means, strict=False):
                np.testing.assert_allclose(rows.vectors[a:b].mean(0), mean, rtol=1e-4, atol=1e-5)
        seconds = np.concatenate([rows.seconds for rows in one.blocks])
        vectors = one.vectors(np.arange(len(present)))
        own = {
            int(i): (code, int(s), v.tobytes())
            for i, s, v in zip(present, seconds, vectors, strict=True)
            if i >= 0
        }
        packed = one.packed()
        codes = np.stack([np.full(len(packed), code), packed.seconds], axis=1)
        assert known_of(packed.item_ids, codes, packed.vectors) == own
        assert len(own) == len(one)
        found |= own
    return found


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(0, 60), st.integers(0, 30), st.sampled_from([3, 512]))
def test_lists_hold_what_was_put_in_whatever_the_order(seed, items, more, short):
    rng = np.random.default_rng(seed + 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells_module, "SHORT", short)
        lists, known = make(items, seed)
        ids = rng.choice(list(known) + list(range(20_000, 20_030)), more, replace=False)
        codes, vectors = drawn(more, rng)
        before = content(lists)
        assert before == known
        appended = lists.with_items(ids.astype(np.int64), codes, vectors)
        known |= known_of(ids, codes, vectors)
        assert content(appended) == known
        assert content(lists) == before
    asked = np.array([*known, 999_999], np.int64)
    codes_found, rows = appended.locate(asked)
    for item, code, row in zip(asked[:-1], codes_found, rows, strict=False):
        assert code == known[int(item)][0]
        assert appended.lists[code].item_ids[row] == item
    assert codes_found[-1] == rows[-1] == -1
    positions, _ = appended.positions_of(asked[:-1])
    np.testing.assert_array_equal(appended.item_ids_N[positions], asked[:-1])
    np.testing.assert_array_equal(appended.codes_at(positions), codes_found[:-1])


def test_appending_shares_the_lists_of_the_other_codes():
    lists, _ = make()
    appended = lists.with_items(np.array([77_777]), np.array([[2, 1]]), np.ones((1, D), np.float32))
    same = [a is b for a, b in zip(lists.lists, appended.lists, strict=True)]
    assert same == [True, True, False, True, True]


def test_lists_that_grow_from_the_same_one_do_not_see_each_others_items():
    lists, known = make()
    one, code = np.ones((1, D), np.float32), np.array([[2, 1]])
    left = lists.with_items(np.array([70_000]), code, one)
    right = lists.with_items(np.array([80_000]), code, 2 * one)
    further = left.with_items(np.array([60_000]), code, 3 * one)
    assert 70_000 not in content(lists) and 70_000 not in content(right)
    assert content(right) == content(lists) | {80_000: (2, 1, (2 * one).tobytes())}
    assert content(further) == content(left) | {60_000: (2, 1, (3 * one).tobytes())}
    np.testing.assert_array_equal(
        further.vectors_of(np.array([60_000, 70_000])), [[3] * D, [1] * D]
    )


def test_no_change_copies_the_base_of_a_list():
    lists, known = make(400)
    bases = [one.base for one in lists.lists]
    for n in range(40):
        rng = np.random.default_rng(n)
        ids = np.append(rng.choice(list(known), 8, replace=False), 20_000 + n)
        codes, vectors = drawn(9, rng)
        lists = lists.with_items(ids, codes, vectors)
        known |= known_of(ids, codes, vectors)
        gone = rng.choice(list(known), 3, replace=False)
        lists = lists.without(np.append(gone, 10**9))
        known = {i: v for i, v in known.items() if i not in gone}
        assert content(lists) == known
        assert all(one.base is base for one, base in zip(lists.lists, bases, strict=True))
        asked = np.array(sorted(known))
        codes_found, rows = lists.locate(asked)
        assert all(
            lists.lists[c].item_ids[r] == i
            for i, c, r in zip(asked, codes_found, rows, strict=True)
        )
        np.testing.assert_array_equal(np.sort(lists.item_ids_N[lists.item_ids_N >= 0]), asked)
    assert all(one.changes == len(one.removed) + len(one.tail) > 0 for one in lists.lists)


def test_a_changed_list_is_the_sum_of_its_file_and_what_changed_since(tmp_path):
    lists, known = make(300)
    lists.write(tmp_path)
    some = np.array(sorted(known))[::3]
    codes, vectors = drawn(len(some), np.random.default_rng(5))
    left = np.array(sorted(known))[1::9]
    changed = lists.with_items(some, codes, vectors).without(left)
    for code, one in enumerate(changed.lists):
        into = codes[:, 0] == code
        into &= ~np.isin(some, left)
        gone = np.concatenate([some, left, [10**9]])
        assembled = CodeList(open_rows(tmp_path / file_name(code), D)).assembled(
            gone, some[into], codes[into, 1], vectors[into]
        )
        np.testing.assert_array_equal(assembled.present_ids, one.present_ids)
        rows = np.arange(len(one.item_ids))
        np.testing.assert_array_equal(assembled.vectors(rows), one.vectors(rows))
        again = one.assembled(some[into][:1], some[into], codes[into, 1], vectors[into])
        np.testing.assert_array_equal(np.sort(again.present_ids), np.sort(one.present_ids))


def test_lists_with_rows_that_are_gone_are_written_without_them(tmp_path):
    lists, known = make()
    some = np.array(sorted(known))[:6]
    codes = np.stack([(lists.locate(some)[0] + 1) % C, np.ones(6, int)], axis=1)
    lists = lists.with_items(some, codes, np.ones((6, D), np.float32))
    assert any(len(one.removed) for one in lists.lists)
    lists.write(tmp_path)
    loaded = CodeLists.load(tmp_path, C, D)
    assert content(loaded) == content(lists)
    assert not any(one.changes for one in loaded.lists)


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


def test_a_loaded_list_is_mapped_and_outlives_its_file(tmp_path):
    lists, known = make(400)
    lists.write(tmp_path)
    loaded = CodeLists.load(tmp_path, C, D)
    mapped = [line for line in open("/proc/self/maps") if str(tmp_path) in line]  # noqa: SIM115
    assert len(mapped) == C
    for code in range(C):
        (tmp_path / file_name(code)).unlink()
    assert content(loaded) == known


def test_a_searched_list_cannot_be_changed(tmp_path):
    lists, _ = make()
    lists.write(tmp_path)
    for some in (lists, CodeLists.load(tmp_path, C, D)):
        rows = some.lists[0].base
        for array in (rows.vectors, rows.item_ids, rows.means, some.lists[0].item_ids):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_not_finite_is_refused_by_name_of_its_item(bad):
    vectors = np.ones((3, D), np.float32)
    vectors[1, 2] = bad
    with pytest.raises(IndexerError, match="item 20 is not finite"):
        CodeLists.build(np.array([10, 20, 30]), np.zeros((3, 2), int), vectors, C)
    with pytest.raises(IndexerError, match="item 20 is not finite"):
        make()[0].with_items(np.array([10, 20, 30]), np.zeros((3, 2), int), vectors)


def test_duplicate_ids_are_refused_within_a_list_and_across_lists():
    vectors = np.ones((2, D), np.float32)
    for codes in ([[1, 1], [1, 2]], [[1, 1], [2, 1]]):
        with pytest.raises(IndexerError, match="item 7 is in the lists more than once"):
            CodeLists.build(np.array([7, 7]), np.array(codes), vectors, C)
        with pytest.raises(IndexerError, match="item 7 is there more than once"):
            make()[0].with_items(np.array([7, 7]), np.array(codes), vectors)


def test_codes_out_of_range_and_shapes_that_do_not_fit_are_refused():
    vectors = np.ones((2, D), np.float32)
    with pytest.raises(IndexerError, match="item 8 has a code outside 0..4"):
        CodeLists.build(np.array([7, 8]), np.array([[1, 1], [5, 1]]), vectors, C)
    with pytest.raises(IndexerError, match="codes for"):
        CodeLists.build(np.array([7, 8]), np.array([1, 1]), vectors, C)
    with pytest.raises(IndexerError, match="the lists have dimension 4"):
        make()[0].with_items(np.array([1]), np.array([[0, 1]]), np.ones((1, 3), np.float32))


def _spoil(tensors: dict[str, np.ndarray], how: str) -> dict[str, np.ndarray]:
    ids, vectors = tensors["item_ids"], tensors["vectors"]
    spoilt = {
        "nan": {"means": np.full_like(tensors["means"], np.nan)},
        "twice": {"item_ids": np.repeat(ids[:1], len(ids))},
        "short": {"item_ids": ids[:-1]},
        "dimension": {"vectors": np.ones((len(ids), 9), np.float32)},
        "retyped": {"vectors": vectors.astype(np.float64)},
        "renamed": {"ids": ids},
        "beyond": {"starts": tensors["starts"] + 1},
        "uneven": {"starts": np.append(tensors["starts"], 0)},
        "level": {"starts": np.array(0)},
    }
    return tensors | spoilt[how]


@pytest.mark.parametrize(
    "how",
    ["nan", "twice", "short", "dimension", "retyped", "renamed", "beyond", "uneven", "level"],
)
def test_a_list_file_with_bad_content_is_refused_by_name(tmp_path, how):
    make()[0].write(tmp_path)
    path = tmp_path / file_name(2)
    spoilt = _spoil(load_file(path), how)
    path.unlink()
    save_file(spoilt, path)
    message = "more than once" if how == "twice" else r"00002\.safetensors"
    with pytest.raises(SnapshotError, match=message):
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
