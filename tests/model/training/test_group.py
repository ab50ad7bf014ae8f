"""A group of ranks is one trainer: killed where one likes, it ends with the same bits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from model.training.progress import Progress
from tests.model.rank_group import Killed, together
from tests.model.training.group_process import work
from tests.model.training.test_trainer_learner import KIT
from tests.model.training.training_run import CONFIG, EVENTS, Outcome, assert_equal, outcome

ROOT = Path(__file__).parents[3]


def trained(
    data: Path, size: int, kill: tuple[int, int] | None = None
) -> tuple[Outcome, list[int]]:
    """One life of a group; `kill` says which rank ends at which of its steps."""
    data.mkdir(exist_ok=True)
    lasts = [kill[1] if kill and kill[0] == rank else None for rank in range(size)]
    found = together(data, size, work, data, each=lasts)
    progress, _ = found[0]
    return outcome(data, progress, CONFIG, KIT), [steps for _, steps in found]


def assert_near(one: Outcome, other: Outcome) -> None:
    assert one.progress["offsets"] == other.progress["offsets"]
    assert one.tensors.keys() == other.tensors.keys()
    for name, x in one.tensors.items():
        y = other.tensors[name].numpy()
        if not x.is_floating_point():
            np.testing.assert_array_equal(y, x.numpy(), err_msg=name)
        elif not name.endswith(("keys.bias", "content.2.bias")):  # nothing but rounding moves them
            near = 1e-5 * max(1.0, float(x.abs().max()) if x.numel() else 0)
            np.testing.assert_allclose(y, x.numpy(), rtol=1e-5, atol=near, err_msg=name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return trained(tmp_path_factory.mktemp("alone"), 1)[0]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, list[int]]:
    """What two ranks end with that nobody disturbs, and the steps of each."""
    return trained(tmp_path_factory.mktemp("pair"), 2)


def test_a_group_trains_what_one_does(alone: Outcome, pair: tuple[Outcome, list[int]]) -> None:
    assert pair[0].progress["trained_events"] == EVENTS
    assert pair[0].progress["forgotten"] == 1
    assert_near(alone, pair[0])


def test_a_group_ends_alike_wherever_it_is_killed(
    pair: tuple[Outcome, list[int]], tmp_path: Path
) -> None:
    expected, steps = pair
    random = np.random.default_rng(1)
    for rank in (0, 1, 1):
        with pytest.raises(Killed):
            trained(tmp_path, 2, (rank, int(random.integers(3, steps[rank] // 3))))
    assert_equal(trained(tmp_path, 2)[0], expected)


def test_another_number_of_ranks_goes_on_from_the_same_checkpoint(
    alone: Outcome, pair: tuple[Outcome, list[int]], tmp_path: Path
) -> None:
    third = pair[1][1] // 3
    for size in (2, 3):
        with pytest.raises(Killed):
            trained(tmp_path, size, (size - 1, third))
    assert_near(alone, trained(tmp_path, 1)[0])


@pytest.mark.slow
def test_torchrun_starts_a_group_again_that_lost_a_rank(
    pair: tuple[Outcome, list[int]], tmp_path: Path
) -> None:
    """As torchrun's agent does it: each life but the last ends with a kill."""
    expected, steps = pair
    kills = [f"{rank}:{steps[rank] // 3}" for rank in (1, 0)]
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("--max-restarts", "2", "-m", "tests.model.training.group_process", str(tmp_path), *kills),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=240)
    progress = Progress.from_json(json.loads((tmp_path / "progress.json").read_text()))
    assert_equal(outcome(tmp_path, progress, CONFIG, KIT), expected)
