from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import structlog
import torch

from model.training.checkpoint import CheckpointDirectory, Saved
from model.training.micro_batch import TrainerError


def state(entry: int) -> Saved:
    return Saved(
        entry,
        {
            "weights": torch.arange(6).reshape(2, 3) / 7 + entry,
            "random": torch.Generator().manual_seed(entry).get_state(),
            "half": torch.ones(3, dtype=torch.bfloat16),
            "none": torch.empty(0, 4),
        },
        {"users": np.array([-(2**63), 5, 2**63 - 1]), "flags": np.array([True, False])},
        {"learner": {"steps": entry}, "trainer": {"offsets": {"sequences": {"0": 2**60}}}},
    )


def assert_same(one: Saved | None, other: Saved) -> None:
    assert one is not None
    assert one.entry == other.entry
    assert one.meta == other.meta
    for name, tensor in other.tensors.items():
        assert torch.equal(one.tensors[name], tensor)
        assert one.tensors[name].dtype == tensor.dtype
    for name, array in other.arrays.items():
        assert np.array_equal(one.arrays[name], array)
        assert one.arrays[name].dtype == array.dtype


def test_a_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    checkpoints = CheckpointDirectory(tmp_path / "checkpoints", 3)
    assert checkpoints.newest() is None
    checkpoints.save(state(7))
    assert_same(CheckpointDirectory(tmp_path / "checkpoints", 3).newest(), state(7))


def test_the_last_few_are_kept_and_the_oldest_is_named(tmp_path: Path) -> None:
    checkpoints = CheckpointDirectory(tmp_path, 2)
    assert [checkpoints.save(state(entry)) for entry in (3, 5, 9, 900)] == [3, 3, 5, 9]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000000000009", "000000000900"]


@pytest.mark.parametrize("name", ["learner.safetensors", "trainer.safetensors", "meta.json"])
def test_a_damaged_one_is_set_aside_with_a_log_line(tmp_path: Path, name: str) -> None:
    checkpoints = CheckpointDirectory(tmp_path, 3)
    checkpoints.save(state(1))
    checkpoints.save(state(2))
    path = tmp_path / "000000000002" / name
    path.write_bytes(path.read_bytes()[:-3])
    with structlog.testing.capture_logs() as logs:
        assert_same(checkpoints.newest(), state(1))
    assert name in logs[0]["reason"]
    assert logs[0]["log_level"] == "error"
    checkpoints.save(state(2))
    assert_same(checkpoints.newest(), state(2))


def test_without_any_readable_one_nothing_begins_silently_anew(tmp_path: Path) -> None:
    checkpoints = CheckpointDirectory(tmp_path, 3)
    checkpoints.save(state(1))
    (tmp_path / "000000000001" / "manifest.json").write_text("{}")
    with pytest.raises(TrainerError, match="none of the 1 checkpoints is readable.*--fresh"):
        checkpoints.newest()
    assert (tmp_path / "000000000001").is_dir()


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
from tests.model.training.test_checkpoint import state
import torch

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
large = state(8)
large.tensors["weights"] = torch.zeros(100_000)
handovers = HandoverDirectory(Path(sys.argv[1]), 3, None)
for write in (
    lambda: CheckpointDirectory(Path(sys.argv[1]), 3).save(large),
    lambda: handovers.publish(1, Export(large.tensors, segment([1]), {}), HandoverFacts()),
):
    try:
        write()
    except TrainerError as error:
        print(error)
"""


def test_a_disk_without_room_is_one_clear_error_and_nothing_half_written(tmp_path: Path) -> None:
    CheckpointDirectory(tmp_path, 3).save(state(1))
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
        CheckpointDirectory(tmp_path / "file" / "checkpoints", 3).save(state(1))


def test_nothing_in_it_needs_unpickling(tmp_path: Path) -> None:
    CheckpointDirectory(tmp_path, 3).save(state(1))
    path = tmp_path / "000000000001"
    assert json.loads((path / "meta.json").read_text()) == state(1).meta
    assert {p.suffix for p in path.iterdir()} == {".safetensors", ".json"}
