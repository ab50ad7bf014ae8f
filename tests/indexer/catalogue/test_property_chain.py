"""The chain of item properties: what is written is read, whoever follows it and whenever."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import indexer.catalogue.property_chain as chain_module
from indexer.catalogue.property_chain import FOLDER, POINTER, PropertyChain, read_pointer
from indexer.catalogue.property_reader import PropertyReader, read_columns
from indexer.catalogue.property_rows import rows
from indexer.errors import SnapshotError
from streaming.items import STATES, Item

VALUES = {
    "brand": st.text(max_size=4),
    "price": st.floats(allow_nan=False, allow_infinity=False),
    "new": st.booleans(),
    "sizes": st.lists(st.sampled_from("SML"), max_size=3),
    "released": st.integers(0, 2**45).map(lambda ms: {"time": ms}),
}


@st.composite
def items(draw, item_id: int) -> Item:
    first = draw(st.none() | st.integers(0, 99))
    last = draw(st.none() | st.integers(100, 200))
    names = draw(st.lists(st.sampled_from(sorted(VALUES)), unique=True))
    attributes = {name: draw(VALUES[name]) for name in names}
    state = draw(st.sampled_from(STATES))
    return Item(item_id, draw(st.text(max_size=3)), "c", "x", 5, state, first, last, attributes)


changes = st.lists(
    st.integers(0, 20).flatmap(lambda i: st.tuples(st.just(i), st.none() | items(i))),
    min_size=1,
    max_size=8,
).map(dict)


@settings(max_examples=40, deadline=None)
@given(st.lists(changes, min_size=1, max_size=12), st.sampled_from([0, 3_000, 1 << 18]), st.data())
def test_who_follows_reads_what_who_begins_reads_and_what_was_said(said, small, data):
    folder, before = Path(tempfile.mkdtemp()), chain_module.SMALL
    chain_module.SMALL = small
    try:
        chain, follower = PropertyChain(folder), PropertyReader(folder)
        known: dict[int, Item | None] = {}
        for number, some in enumerate(said):
            chain.append(rows(some), {0: number + 1})
            known |= some
            if data.draw(st.booleans()):
                follower.read()
        follower.read()
        fresh = PropertyReader(folder)
        fresh.read()
        for reader in (follower, fresh):
            assert {i: reader.item(i) for i in range(22)} == {i: known.get(i) for i in range(22)}
            assert reader.columns.unlisted.tolist() == sorted(
                i for i, one in known.items() if one is None or one.state != "listed"
            )
            assert reader.position == {0: len(said)}
            assert len(reader.columns) == len(known)
        files = {f"{FOLDER}/{path.name}" for path in (folder / FOLDER).iterdir()}
        pointer = read_pointer(folder)
        assert pointer is not None and files == {one.file for one in pointer.files}
    finally:
        chain_module.SMALL = before
        shutil.rmtree(folder)


def test_files_are_few_and_what_is_small_is_written_again_seldom(tmp_path, monkeypatch):
    monkeypatch.setattr(chain_module, "SMALL", 4_000)
    chain, written = PropertyChain(tmp_path), 0
    chain.append(rows({i: Item(i, f"title {i}") for i in range(20_000)}), {0: 20_000})
    base = read_pointer(tmp_path).files[0]
    for number in range(200):
        chain.append(rows({number: Item(number, f"again {number}")}), {0: 20_001 + number})
        written += read_pointer(tmp_path).files[-1].bytes
    files = read_pointer(tmp_path).files
    assert files[0] == base and len(files) <= 8
    assert_halved(files)
    assert written < base.bytes


def assert_halved(files):
    sizes = [one.bytes for one in files]
    assert all(one > 1.9 * later for one, later in zip(sizes, sizes[1:], strict=False)), sizes


def test_changes_of_which_each_is_somewhat_smaller_make_no_file_each(tmp_path, monkeypatch):
    monkeypatch.setattr(chain_module, "SMALL", 4_000)
    chain, first = PropertyChain(tmp_path), 0
    for number in range(70):
        count = 400 - 4 * number
        chain.append(rows({i: Item(i, "t") for i in range(first, first + count)}), {0: first})
        first += count
        assert_halved(read_pointer(tmp_path).files)
    assert len(read_columns(tmp_path)) == first


def test_a_damaged_file_is_named_and_readers_keep_what_they_had(tmp_path):
    chain, reader = PropertyChain(tmp_path), PropertyReader(tmp_path)
    chain.append(rows({7: None}), {0: 1})
    assert reader.read().unlisted.tolist() == [7]
    chain.append(rows({8: None}), {0: 2})
    (path,) = (tmp_path / FOLDER).iterdir()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(SnapshotError, match=rf"{path.name}: damaged .* restart the indexer"):
        reader.read()
    assert reader.columns.unlisted.tolist() == [7]
    with pytest.raises(SnapshotError, match=path.name):
        chain.append(rows({9: None}), {0: 3})
    chain.begin(rows({7: None, 8: None, 9: None}), {0: 3})
    assert reader.read().unlisted.tolist() == [7, 8, 9]
    path = next((tmp_path / FOLDER).iterdir())
    path.unlink()
    with pytest.raises(SnapshotError, match="missing"):
        read_columns(tmp_path)
    with pytest.raises(SnapshotError, match="missing"):
        PropertyChain(tmp_path).open()


@pytest.mark.parametrize("file", ["../secret.arrow", "/etc/passwd", "properties/1.arrow", ""])
def test_a_pointer_that_leads_elsewhere_is_refused(tmp_path, file):
    body = b'{"files": [{"file": "%s", "sha256": "", "bytes": 1}], "position": {}}'
    (tmp_path / POINTER).write_bytes(body % file.encode())
    with pytest.raises(SnapshotError, match=r"properties\.json: damaged"):
        read_columns(tmp_path)


def test_what_no_pointer_names_is_removed_and_no_number_is_used_twice(tmp_path):
    chain = PropertyChain(tmp_path)
    chain.append(rows({7: None}), {0: 1})
    left = tmp_path / FOLDER / "00000009.arrow"
    left.write_bytes(b"of a writer that was killed before it pointed to it")
    (tmp_path / FOLDER / ".partial-00000010.arrow").write_bytes(b"half")
    again = PropertyChain(tmp_path)
    assert again.open() and not left.exists()
    again.append(rows({8: None}), {0: 2})
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["00000010.arrow"]
