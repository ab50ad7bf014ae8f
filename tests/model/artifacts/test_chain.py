from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from model.artifacts.chain import FLOOR, LONGEST, SEGMENTS, Chain
from model.artifacts.manifest import Manifest, ManifestError, publish, sha256, verify
from model.artifacts.verified_files import VerifiedFiles


def write_next(folder: Path, number: int, content: bytes, before: Chain | None) -> Chain:
    """The directory `number`, which continues a chain or begins one."""
    name = f"rows/{number}.bin"
    names = [*before.names, name] if before else [name]

    def write(directory: Path) -> None:
        if before:
            before.link(directory)
        (directory / "rows").mkdir(exist_ok=True)
        (directory / name).write_bytes(content)

    digests = before.digests if before else None
    path = folder / f"{number:08d}"
    return Chain.of(path, publish(path, "handover", {SEGMENTS: names}, write, digests))


def test_each_directory_of_a_chain_is_complete_and_older_ones_may_go(tmp_path: Path) -> None:
    one = write_next(tmp_path, 1, b"base", None)
    two = write_next(tmp_path, 2, b"delta", one)
    three = write_next(tmp_path, 3, b"newer", two)
    for path in (one.directory, two.directory):
        for file in sorted(path.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        path.rmdir()
    chain = Chain.of(three.directory, verify(three.directory, "handover"))
    assert [path.read_bytes() for path in chain.paths()] == [b"base", b"delta", b"newer"]
    assert chain == three


def test_a_linked_segment_is_the_same_file(tmp_path: Path) -> None:
    one = write_next(tmp_path, 1, b"base", None)
    two = write_next(tmp_path, 2, b"delta", one)
    assert one.paths()[0].samefile(two.paths()[0])


def test_where_links_are_impossible_segments_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    one = write_next(tmp_path, 1, b"base", None)
    two = write_next(tmp_path, 2, b"delta", one)
    verify(two.directory, "handover")
    assert not one.paths()[0].samefile(two.paths()[0])


def test_a_reader_takes_what_it_does_not_hold(tmp_path: Path) -> None:
    one = write_next(tmp_path, 1, b"base", None)
    two = write_next(tmp_path, 2, b"delta", one)
    held = [two.digests[name] for name in two.names]
    three = write_next(tmp_path, 3, b"newer", two)
    anew = write_next(tmp_path, 4, b"base again", None)
    assert three.since(held) == ("rows/3.bin",)
    assert three.since(held[:1]) == ("rows/2.bin", "rows/3.bin")
    assert three.since([]) == three.names
    assert anew.since(held) is None
    assert one.since(held) is None  # an older version is served again


@pytest.mark.parametrize(
    ("sizes", "coming", "full"),
    [
        ([10 * FLOOR, 4 * FLOOR], 6 * FLOOR, False),
        ([10 * FLOOR, 4 * FLOOR], 6 * FLOOR + 1, True),
        ([10, 20, 30], FLOOR - 50, False),
        ([10, 20, 30], FLOOR, True),
        ([100 * FLOOR] + [1] * (LONGEST - 2), 1, False),
        ([100 * FLOOR] + [1] * (LONGEST - 1), 1, True),
    ],
)
def test_deltas_never_outgrow_their_base_nor_the_chain_its_longest(
    sizes: list[int], coming: int, full: bool
) -> None:
    names = tuple(map(str, range(len(sizes))))
    chain = Chain(Path(), names, dict.fromkeys(names, ""), tuple(sizes))
    assert chain.is_full(coming) is full


def test_what_is_written_stays_within_three_times_the_deltas() -> None:
    """A table of 100 MiB of which 1 to 20 % change between two directories."""
    for share in (1, 2, 5, 20):
        base, delta = 100 * FLOOR, share * FLOOR
        sizes, written, changed = [base], 0, 0
        for _ in range(1000):
            chain = Chain(Path(), (), {}, tuple(sizes))
            sizes = [base] if chain.is_full(delta) else [*sizes, delta]
            written, changed = written + sizes[-1], changed + delta
            assert sum(sizes) <= 2 * base
        assert written <= (4.1 if share == 1 else 3) * changed


@pytest.mark.parametrize("names", [None, [], "a", ["b"], ["a", "a"], [["a"]]])
def test_a_manifest_that_names_no_chain_is_refused(names: Any) -> None:
    manifest = Manifest("handover", {SEGMENTS: names}, {"a": ("0", 1)}, "")
    with pytest.raises(ManifestError, match="segments"):
        Chain.of(Path("somewhere"), manifest)


def test_a_linked_file_is_read_once_and_again_when_it_was_altered(tmp_path: Path) -> None:
    read = []

    def counted(path: Path) -> str:
        read.append(path.name)
        return sha256(path)

    files = VerifiedFiles(counted)
    one = write_next(tmp_path, 1, b"base", None)
    two = write_next(tmp_path, 2, b"delta", one)
    verify(one.directory, "handover", files.digest)
    verify(two.directory, "handover", files.digest)
    assert read == ["1.bin", "2.bin"]
    two.paths()[0].write_bytes(b"bass")
    with pytest.raises(ManifestError, match="rows/1.bin: content differs"):
        verify(two.directory, "handover", files.digest)
