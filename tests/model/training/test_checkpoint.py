from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import structlog
import torch

from model.artifacts import chain
from model.artifacts.manifest import publish
from model.training.checkpoint import CheckpointDirectory, Saved
from model.training.micro_batch import TrainerError


class Growing:
    """A state of 200 kB of rows, of which each entry changes some."""

    def __init__(self) -> None:
        self.entry = 0
        self.rows = torch.zeros(50, 1000)
        self.unsaved: set[int] = set()

    def learn(self, entry: int, rows: int = 2) -> Growing:
        self.entry = entry
        for n in range(entry, entry + rows):
            self.rows[n % 50] += entry / 7
            self.unsaved.add(n % 50)
        return self

    def take(self, whole: bool) -> Saved:
        rows = torch.tensor(sorted(range(50) if whole else self.unsaved), dtype=torch.int64)
        self.unsaved.clear()
        dense = {
            "random": torch.Generator().manual_seed(self.entry).get_state(),
            "half": torch.ones(3, dtype=torch.bfloat16),
            "none": torch.empty(0, 4),
            "users": torch.tensor([-(2**63), 5, 2**63 - 1]),
            "flags": torch.tensor([True, False]),
        }
        meta = {"learner": {"steps": self.entry}, "trainer": {"offsets": {"0": 2**60}}}
        part = {"n": rows, "values": self.rows[rows].clone()}
        return Saved(self.entry, dense, [part], meta)


def saved(*entries: int) -> Saved:
    """What is to come back after these entries."""
    growing = Growing()
    for entry in entries:
        growing.learn(entry)
    return growing.take(whole=True)


def assert_same(one: Saved | None, other: Saved) -> None:
    assert one is not None
    assert one.entry == other.entry
    assert one.meta == other.meta
    for name, tensor in other.dense.items():
        assert torch.equal(one.dense[name], tensor)
        assert one.dense[name].dtype == tensor.dtype
    rows = torch.zeros(50, 1000)
    for part in one.rows:
        rows[part["n"]] = part["values"]
    (whole,) = other.rows
    assert torch.equal(rows, whole["values"])


def written(folder: Path) -> dict[int, list[int]]:
    """Of each checkpoint the entries of the files that it is made of, oldest first."""
    return {
        int(p.name): [int(f.stem[5:]) for f in sorted(p.glob("rows-*.safetensors"))]
        for p in sorted(folder.iterdir())
        if p.name.isdigit()
    }


def test_a_state_comes_back_bit_for_bit_from_what_changed(tmp_path: Path) -> None:
    checkpoints, growing = CheckpointDirectory(tmp_path / "checkpoints", 3), Growing()
    assert checkpoints.newest() is None
    for entry in range(1, 8):
        checkpoints.save(growing.learn(entry).take)
        again = CheckpointDirectory(tmp_path / "checkpoints", 3).newest()
        assert_same(again, saved(*range(1, entry + 1)))


def test_a_checkpoint_costs_what_changed(tmp_path: Path) -> None:
    checkpoints, growing = CheckpointDirectory(tmp_path, 2), Growing()
    for entry in (1, 2, 3, 4):
        checkpoints.save(growing.learn(entry).take)
    assert written(tmp_path) == {1: [1], 3: [2, 3], 4: [2, 3, 4]}
    sizes = [p.stat().st_size for p in sorted((tmp_path / f"{4:012d}").glob("rows*"))]
    assert sizes[0] > 200_000
    assert max(sizes[1:]) < 10_000
    for name in ("rows-000000000002.safetensors", "rows-000000000003.safetensors"):
        assert (tmp_path / f"{3:012d}" / name).samefile(tmp_path / f"{4:012d}" / name)


def test_when_the_changes_outgrow_all_rows_another_chain_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain, "FLOOR", 1000)  # else a chain this small goes on to a megabyte
    checkpoints, growing = CheckpointDirectory(tmp_path, 1), Growing()
    for entry in range(1, 5):
        checkpoints.save(growing.learn(entry, rows=20).take)
    assert written(tmp_path) == {4: [4]}
    assert_same(CheckpointDirectory(tmp_path, 1).newest(), growing.take(whole=True))


def test_the_last_few_are_kept_and_the_newest_of_the_chain_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain, "LONGEST", 4)
    checkpoints, growing = CheckpointDirectory(tmp_path, 2), Growing()
    oldest = [checkpoints.save(growing.learn(entry).take) for entry in range(1, 10)]
    assert oldest == [1, 1, 1, 1, 1, 5, 5, 5, 5]
    assert written(tmp_path) == {5: [2, 3, 4, 5], 8: [6, 7, 8], 9: [6, 7, 8, 9]}


def test_one_that_is_to_be_kept_is_one(tmp_path: Path) -> None:
    checkpoints, growing = CheckpointDirectory(tmp_path, 1), Growing()
    assert [checkpoints.save(growing.learn(n).take) for n in (3, 5, 900)] == [3, 5, 900]
    assert written(tmp_path) == {900: [3, 5, 900]}


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("dense.safetensors", 4),
        ("meta.json", 4),
        ("manifest.json", 4),
        ("rows-000000000005.safetensors", 4),
        ("rows-000000000004.safetensors", 1),
        ("rows-000000000003.safetensors", 1),
        ("rows-000000000002.safetensors", 1),
    ],
)
def test_damage_anywhere_costs_what_is_made_of_it_and_another_chain_begins(
    tmp_path: Path, name: str, left: int
) -> None:
    """A delta or the base that several share, or a file of the newest alone."""
    checkpoints, growing = CheckpointDirectory(tmp_path, 2), Growing()
    for entry in range(1, 6):
        checkpoints.save(growing.learn(entry).take)
    assert written(tmp_path).keys() == {1, 4, 5}
    path = tmp_path / f"{5:012d}" / name
    path.write_bytes(path.read_bytes()[:-3])
    with structlog.testing.capture_logs() as logs:
        found = checkpoints.newest()
    assert_same(found, saved(*range(1, left + 1)))
    assert name in logs[0]["reason"]
    assert logs[0]["log_level"] == "error"
    growing = Growing()
    for entry in range(1, left + 1):
        growing.learn(entry)
    growing.unsaved.clear()
    for entry in (left + 1, left + 2):
        checkpoints.save(growing.learn(entry).take)
        again = CheckpointDirectory(tmp_path, 2).newest()
        assert_same(again, saved(*range(1, entry + 1)))
    assert written(tmp_path)[left + 1] == [left + 1]
    assert written(tmp_path)[left + 2] == [left + 1, left + 2]


def test_a_restart_goes_on_with_the_chain(tmp_path: Path) -> None:
    growing = Growing()
    for entry in (1, 2, 3, 4):
        checkpoints = CheckpointDirectory(tmp_path, 2)
        checkpoints.newest()
        checkpoints.save(growing.learn(entry).take)
    assert written(tmp_path)[4] == [2, 3, 4]


def test_what_could_not_be_written_is_in_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints, growing = CheckpointDirectory(tmp_path, 2), Growing()
    for entry in (1, 2, 3):
        checkpoints.save(growing.learn(entry).take)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(TrainerError, match="free some space"):
        patch.setattr(os, "fsync", full)
        checkpoints.save(growing.learn(4).take)
    checkpoints.save(growing.learn(5).take)
    assert_same(CheckpointDirectory(tmp_path, 2).newest(), saved(1, 2, 3, 4, 5))


def test_without_any_readable_one_nothing_begins_silently_anew(tmp_path: Path) -> None:
    checkpoints = CheckpointDirectory(tmp_path, 3)
    checkpoints.save(Growing().learn(1).take)
    (tmp_path / "000000000001" / "manifest.json").write_text("{}")
    with pytest.raises(TrainerError, match="none of the 1 checkpoints is readable.*--fresh"):
        checkpoints.newest()
    assert (tmp_path / "000000000001").is_dir()


def test_one_that_an_older_version_wrote_is_refused_and_left_where_it_is(tmp_path: Path) -> None:
    def write(directory: Path) -> None:
        (directory / "learner.safetensors").write_bytes(b"weights")

    publish(tmp_path / "000000000007", "checkpoint", {"entry": 7}, write)
    with pytest.raises(TrainerError, match="an older version.*go on with that version.*--fresh"):
        CheckpointDirectory(tmp_path, 3).newest()
    assert (tmp_path / "000000000007").is_dir()


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".partial-000000000004-1").mkdir()
    assert CheckpointDirectory(tmp_path, 3).newest() is None
    assert list(tmp_path.iterdir()) == []


_SMALL_DISK = """
import resource, signal, sys
from pathlib import Path
from model.artifacts.handover_facts import HandoverFacts
from model.training.checkpoint import CheckpointDirectory
from model.learning.export import Export
from model.training.handover import HandoverDirectory
from model.training.micro_batch import TrainerError
from tests.model.retrieval.item_segment import segment
from tests.model.training.test_checkpoint import Growing
import torch

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
large = Growing().learn(8)
export = Export({"weights": large.rows}, segment([1]), {})
handovers = HandoverDirectory(Path(sys.argv[1]), 3, None)
for write in (
    lambda: CheckpointDirectory(Path(sys.argv[1]), 3).save(large.take),
    lambda: handovers.publish(1, export, HandoverFacts()),
):
    try:
        write()
    except TrainerError as error:
        print(error)
"""


def test_a_disk_without_room_is_one_clear_error_and_nothing_half_written(tmp_path: Path) -> None:
    CheckpointDirectory(tmp_path, 3).save(Growing().learn(1).take)
    root = Path(__file__).parents[3]
    child = subprocess.run(
        [sys.executable, "-c", _SMALL_DISK, str(tmp_path)],
        cwd=root,
        capture_output=True,
        text=True,
    )
    lines = child.stdout.splitlines()
    assert "000000000008: the checkpoint cannot be written" in lines[0], child.stderr
    assert "00000001: the handover cannot be written" in lines[1]
    assert all("free some space" in line and "File too large" in line for line in lines)
    assert [p.name for p in tmp_path.iterdir()] == ["000000000001"]


def test_an_unwritable_place_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainerError, match="checkpoint cannot be written.*writable"):
        CheckpointDirectory(tmp_path / "file" / "checkpoints", 3).save(Growing().learn(1).take)


def test_nothing_in_it_needs_unpickling(tmp_path: Path) -> None:
    CheckpointDirectory(tmp_path, 3).save(Growing().learn(1).take)
    path = tmp_path / "000000000001"
    assert json.loads((path / "meta.json").read_text()) == saved(1).meta
    assert {p.suffix for p in path.iterdir()} == {".safetensors", ".json"}


def test_after_as_many_that_stand_by_themselves_as_are_kept_nothing_of_before_is_left(
    tmp_path: Path,
) -> None:
    checkpoints, growing = CheckpointDirectory(tmp_path, 2), Growing()
    for entry in (1, 2, 3, 4):
        checkpoints.save(growing.learn(entry).take)
    (tmp_path / ".damaged-000000000001").mkdir()
    checkpoints.save(growing.learn(5).take, anew=True)
    assert written(tmp_path) == {4: [2, 3, 4], 5: [5]}
    growing.entry = 6  # the same state: its file has the same digest, and is another one
    checkpoints.save(growing.take, anew=True)
    assert written(tmp_path) == {5: [5], 6: [6]}
    assert [path.name for path in tmp_path.glob(".*")] == []
